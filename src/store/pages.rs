//! The page and the script that say how to restore by hand.

use super::layout;
use crate::archive::digest::sha256_hex;

/// The pages of a repository, by their keys.
pub(super) const PAGES: [(&str, &str); 2] = [
    (layout::RESTORE_PAGE, include_str!("embedded/RESTORE.md")),
    (layout::RESTORE_SCRIPT, include_str!("embedded/restore.sh")),
];

/// Digests of the texts that earlier versions wrote. Whoever changes one adds what it was.
const EARLIER: [(&str, &str); 2] = [
    (layout::RESTORE_PAGE, "8390ed44da25addd3cdb579dfbf86221ee4b3dd6ca7b218f542031a57f91828a"),
    (layout::RESTORE_SCRIPT, "20bb05de856c8c7c98ec45dc012e8beaa5d614d011db40b4058f09c7e87ecbf1"),
];

/// The keys of the pages.
pub fn page_names() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|(name, _)| *name)
}

/// Whether this or an earlier version wrote `text` as the page `name`.
pub fn is_known_page(name: &str, text: &[u8]) -> bool {
    let digest = sha256_hex(text);
    PAGES.iter().any(|(page, known)| *page == name && known.as_bytes() == text)
        || EARLIER.iter().any(|(page, known)| *page == name && *known == digest)
}
