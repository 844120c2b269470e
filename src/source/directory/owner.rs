//! Owners by name and by number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Gid, Group, Uid, User};

/// Looks names up once.
#[derive(Debug, Default)]
pub struct OwnerNames {
    users: Mutex<HashMap<u32, Option<String>>>,
    groups: Mutex<HashMap<u32, Option<String>>>,
}

impl OwnerNames {
    /// The name of user `uid`, if it has one here.
    pub fn user(&self, uid: u32) -> Option<String> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users
            .entry(uid)
            .or_insert_with(|| User::from_uid(Uid::from_raw(uid)).ok()?.map(|user| user.name))
            .clone()
    }

    /// The name of group `gid`, if it has one here.
    pub fn group(&self, gid: u32) -> Option<String> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups
            .entry(gid)
            .or_insert_with(|| Group::from_gid(Gid::from_raw(gid)).ok()?.map(|group| group.name))
            .clone()
    }
}

/// Looks numbers up once.
#[derive(Debug, Default)]
pub struct OwnerNumbers {
    users: Mutex<HashMap<String, Option<u32>>>,
    groups: Mutex<HashMap<String, Option<u32>>>,
}

impl OwnerNumbers {
    /// The number that `name` has here, else `number`.
    pub fn user(&self, name: Option<&str>, number: u32) -> u32 {
        let Some(name) = name else { return number };
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let found = users
            .entry(name.to_owned())
            .or_insert_with(|| User::from_name(name).ok()?.map(|user| user.uid.as_raw()));
        found.unwrap_or(number)
    }

    /// The number that group `name` has here, else `number`.
    pub fn group(&self, name: Option<&str>, number: u32) -> u32 {
        let Some(name) = name else { return number };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let found = groups
            .entry(name.to_owned())
            .or_insert_with(|| Group::from_name(name).ok()?.map(|group| group.gid.as_raw()));
        found.unwrap_or(number)
    }
}
