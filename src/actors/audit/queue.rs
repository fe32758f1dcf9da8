//! What waits for the audit log's disk. Pure.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::bus::identity::AuditFact;

/// Facts that may wait for the disk.
pub(super) const MAX_WAITING: usize = 4_096;
/// Facts written with one sync.
pub(super) const MAX_GROUP: usize = 512;
/// One complaint about dropped facts in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

pub(super) type Group = Vec<(SystemTime, AuditFact)>;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Disk {
    #[default]
    Free,
    /// A group is being written.
    Writing,
    /// The last write failed; nothing is tried until [`Queue::resume`].
    Resting,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<(SystemTime, AuditFact)>,
    disk: Disk,
    /// Dropped since the last complaint, and when that was.
    silent: u64,
    complained: Option<SystemTime>,
}

/// A fact was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Time to say how many were dropped since it was last said.
    pub complain: Option<u64>,
}

impl Queue {
    pub fn push(&mut self, fact: AuditFact, now: SystemTime) -> Option<Dropped> {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((now, fact));
            return None;
        }
        self.silent += 1;
        let since = self.complained.and_then(|then| now.duration_since(then).ok());
        if self.complained.is_some() && since.is_some_and(|since| since < COMPLAIN_EVERY) {
            return Some(Dropped { complain: None });
        }
        self.complained = Some(now);
        Some(Dropped { complain: Some(std::mem::take(&mut self.silent)) })
    }

    /// The next group to write; `None` when there is none or the disk is not free.
    pub fn next_group(&mut self) -> Option<Group> {
        if self.disk != Disk::Free || self.waiting.is_empty() {
            return None;
        }
        self.disk = Disk::Writing;
        Some(self.take_group())
    }

    /// What waits when the actor starts, perhaps nothing.
    pub fn first_group(&mut self) -> Group {
        self.disk = Disk::Writing;
        self.take_group()
    }

    fn take_group(&mut self) -> Group {
        let size = self.waiting.len().min(MAX_GROUP);
        self.waiting.drain(..size).collect()
    }

    pub fn written(&mut self) {
        self.disk = Disk::Free;
    }

    /// Puts a group back in front. It was counted when it came, so it may exceed the bound by itself.
    pub fn failed(&mut self, group: Group) {
        self.disk = Disk::Resting;
        for fact in group.into_iter().rev() {
            self.waiting.push_front(fact);
        }
    }

    pub fn resume(&mut self) {
        self.disk = Disk::Free;
    }

    /// A group under way is out of reach; it finishes by itself.
    pub fn restart(&mut self) {
        self.disk = Disk::Free;
    }

    /// Everything that waits, in groups.
    pub fn drain(&mut self) -> Vec<Group> {
        let mut groups = Vec::new();
        while !self.waiting.is_empty() {
            groups.push(self.take_group());
        }
        groups
    }
}
