//! The report of a drill, for people: one document, as a page and as text, in English and in Chinese.
//!
//! | file | for |
//! |---|---|
//! | `words` | what is said, in both languages |
//! | `chinese` | what the program wrote into evidence, in Chinese |
//! | `document` | what the report has in it, from evidence |
//! | `closing` | the end of it: controls, clean-up, integrity, sign-off |
//! | `html` | a page that needs nothing else |
//! | `markdown` | the same as text |
//! | `picture` | timeline and trend, as SVG |
//! | `compare` | what changed since an earlier drill |

mod chinese;
mod closing;
mod compare;
mod document;
mod html;
mod markdown;
mod picture;
mod words;

pub use chinese::chinese;
pub use compare::{Change, compare};
pub use html::html;
pub use markdown::markdown;
pub use words::{basis, check, choice, finding, meaning, phase, scenario, severity, step, verdict};
