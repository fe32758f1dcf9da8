//! The twin's rules (protocol sections 7.4 and 7.5): what an update changes, all of it or nothing.
//!
//! **Desired values meet here.** The Device object carries the cloud's. A *change* of it (it differs
//! from the last one seen for that property) replaces whatever is in force; the same object
//! delivered again changes nothing. A local application's `expected` replaces the cloud's until the
//! cloud's changes again, and so does an accepted `twin/cloud_updated`. Whatever is in force is
//! reported to the cloud as `expected`, so that both sides show the same. What a mapper has *acted
//! on* is never a new desired value: an echo of an old one must not undo a newer one.

use std::collections::BTreeMap;

use super::device::{Device, Held, Property};
use super::value::{
    DEFAULT_TYPE, DELETED, Model, check_desired, check_key, check_text, check_type, check_value,
};
use crate::model::device::{MsgTwin, Twin, TwinValue, TwinVersion};

/// Properties of one device, deleted ones that the cloud does not know of yet included.
pub const MAX_PROPERTIES: usize = 1024;

/// Time and number of a change.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Unix milliseconds.
    pub now_ms: i64,
    /// Counts changes of this edge; only grows.
    pub number: u64,
}

/// What an update did.
#[derive(Debug, Default)]
pub struct Changed {
    /// For `twin/update/result`.
    pub result: Twin,
    /// For `twin/update/document`: before and after, of what changed.
    pub document: BTreeMap<String, (Option<MsgTwin>, Option<MsgTwin>)>,
    /// Properties that did not exist before.
    pub created: Vec<String>,
    /// A desired value in force changed.
    pub desired: bool,
    /// What was not taken, and why (only from the cloud; a local update is refused as a whole).
    pub refused: Vec<String>,
    /// Something is to be written, be it only that the cloud must be told again.
    pub touched: bool,
}

impl Changed {
    fn note(&mut self, name: &str, last: Option<MsgTwin>, property: &Property) {
        let current = (!property.is_deleted()).then(|| property.message());
        self.document.insert(name.to_owned(), (last, current));
        self.touched = true;
    }
}

fn bump(version: &mut TwinVersion) {
    version.edge = version.edge.saturating_add(1);
}

impl Device {
    /// An update by a local application or a mapper.
    ///
    /// # Errors
    /// Why it is refused; then nothing has changed.
    pub fn update(&mut self, twin: &Twin, model: Option<&Model>, stamp: Stamp) -> Result<Changed, String> {
        for (name, message) in twin {
            self.check(name, message.as_ref(), model)?;
        }
        self.make_room(twin.keys())?;
        let mut changed = Changed::default();
        for (name, message) in twin {
            match message {
                Some(message) => self.set(name, message, model, stamp, &mut changed),
                None => self.delete(name, stamp, &mut changed),
            }
        }
        Ok(changed)
    }

    fn check(&self, name: &str, message: Option<&MsgTwin>, model: Option<&Model>) -> Result<(), String> {
        check_key(name)?;
        let stored = self.properties.get(name);
        let Some(message) = message else {
            return match stored {
                Some(_) => Ok(()),
                None => Err("the request body is wrong".to_owned()),
            };
        };
        let given = message.metadata.as_ref().map(|metadata| metadata.kind.as_str());
        let kind = match stored.filter(|property| !property.is_deleted()).and_then(|p| p.kind.as_deref()) {
            Some(kind) => kind,
            None => {
                let kind = given.unwrap_or(DEFAULT_TYPE);
                check_type(kind)?;
                if kind == DELETED {
                    return Err("the value type is not allowed".to_owned());
                }
                kind
            }
        };
        for (side, held) in [("expected", &message.expected), ("actual", &message.actual)] {
            let Some(TwinValue { value, .. }) = held else { continue };
            let Some(value) = value else { return Err(format!("property {name}: {side} has no value")) };
            check_text(value)?;
            // The model's reason says more.
            if let Some(model) = model {
                model.check(name, value)?;
            }
            check_value(kind, value)?;
        }
        Ok(())
    }

    /// Deleted properties that the cloud knows to be deleted make room for new ones.
    fn make_room<'a>(&mut self, names: impl Iterator<Item = &'a String>) -> Result<(), String> {
        let new = names.filter(|name| !self.properties.contains_key(*name)).count();
        if self.properties.len() + new > MAX_PROPERTIES {
            self.properties.retain(|_, property| !property.is_deleted() || property.mark != 0);
        }
        if self.properties.len() + new > MAX_PROPERTIES {
            return Err(format!("a device has at most {MAX_PROPERTIES} properties"));
        }
        Ok(())
    }

    fn set(
        &mut self,
        name: &str,
        message: &MsgTwin,
        model: Option<&Model>,
        stamp: Stamp,
        changed: &mut Changed,
    ) {
        let is_new = !self.properties.contains_key(name);
        let property = self.properties.entry(name.to_owned()).or_default();
        let last = (!is_new && !property.is_deleted()).then(|| property.message());
        let mut differs = is_new;
        let given = message.metadata.as_ref().map(|metadata| metadata.kind.clone());
        let given = given.filter(|kind| !kind.is_empty());
        let named = given.or_else(|| model.map(|model| model.twin_type(name).to_owned()));
        if last.is_none() {
            property.kind = Some(named.unwrap_or_else(|| DEFAULT_TYPE.to_owned()));
            property.required = message.optional == Some(false);
            differs = true;
        } else {
            if property.kind.is_none() {
                differs |= named.is_some();
                property.kind = named;
            }
            // Optional may only end.
            if message.optional == Some(false) && !property.required {
                property.required = true;
                differs = true;
            }
        }
        if message.expected.is_some() || message.actual.is_some() {
            let at_ms = property.next_ms(stamp.now_ms);
            if let Some(value) = message.expected.as_ref().and_then(|held| held.value.clone()) {
                changed.desired |= property.expected.as_ref().is_none_or(|held| held.value != value);
                property.expected = Some(Held { value, at_ms });
                property.is_overridden = true;
                bump(&mut property.expected_version);
            }
            if let Some(value) = message.actual.as_ref().and_then(|held| held.value.clone()) {
                property.actual = Some(Held { value, at_ms });
                bump(&mut property.actual_version);
            }
            differs = true;
        }
        let full = property.message();
        let result = MsgTwin {
            expected: full.expected.filter(|_| message.expected.is_some()),
            actual: full.actual.filter(|_| message.actual.is_some()),
            ..full
        };
        changed.result.insert(name.to_owned(), Some(result));
        if is_new {
            changed.created.push(name.to_owned());
        }
        if differs {
            mark(property, stamp);
            changed.note(name, last, property);
        }
    }

    fn delete(&mut self, name: &str, stamp: Stamp, changed: &mut Changed) {
        let Some(property) = self.properties.get_mut(name) else { return };
        if property.required || property.is_deleted() {
            return;
        }
        let last = property.message();
        changed.desired |= property.expected.is_some();
        erase(property);
        bump(&mut property.expected_version);
        bump(&mut property.actual_version);
        mark(property, stamp);
        changed.result.insert(name.to_owned(), None);
        changed.note(name, Some(last), property);
    }

    /// The desired values of the Device object, complete.
    pub fn desire(
        &mut self,
        wanted: &BTreeMap<String, String>,
        model: Option<&Model>,
        stamp: Stamp,
    ) -> Changed {
        let mut changed = Changed::default();
        for (name, value) in wanted {
            if self.properties.get(name).and_then(|property| property.cloud_desired.as_ref()) == Some(value) {
                continue;
            }
            // What the model forbids moves nothing; it is looked at again with the next version.
            let checked = check_desired(name, value);
            let checked = checked.and_then(|()| model.map_or(Ok(()), |model| model.check(name, value)));
            let checked = checked.and_then(|()| self.make_room(std::iter::once(name)));
            if let Err(why) = checked {
                changed.refused.push(why);
                continue;
            }
            let is_new = !self.properties.contains_key(name);
            let property = self.properties.entry(name.clone()).or_default();
            let last = (!is_new && !property.is_deleted()).then(|| property.message());
            if property.is_deleted() {
                property.kind = None;
            }
            property.cloud_desired = Some(value.clone());
            property.is_overridden = false;
            changed.desired |= property.expected.as_ref().is_none_or(|held| held.value != *value);
            let at_ms = property.next_ms(stamp.now_ms);
            property.expected = Some(Held { value: value.clone(), at_ms });
            property.expected_version.cloud = property.expected_version.cloud.saturating_add(1);
            mark(property, stamp);
            changed.note(name, last, property);
        }
        for (name, property) in &mut self.properties {
            if property.cloud_desired.is_none() || wanted.contains_key(name) {
                continue;
            }
            property.cloud_desired = None;
            changed.touched = true;
            if !property.is_overridden && property.expected.is_some() {
                let last = property.message();
                property.expected = None;
                property.next_ms(stamp.now_ms);
                property.expected_version.cloud = property.expected_version.cloud.saturating_add(1);
                mark(property, stamp);
                changed.desired = true;
                changed.note(name, Some(last), property);
            }
        }
        changed
    }

    /// `twin/cloud_updated`: taken when its versions are not behind ours; otherwise ours is told to
    /// the cloud again.
    pub fn cloud_updated(&mut self, twin: &Twin, model: Option<&Model>, stamp: Stamp) -> Changed {
        let mut changed = Changed::default();
        for (name, message) in twin {
            let Some(message) = message else { continue };
            if let Err(why) = self.take_from_cloud(name, message, model, stamp, &mut changed) {
                changed.refused.push(format!("property {name}: {why}"));
                if let Some(property) = self.properties.get_mut(name) {
                    mark(property, stamp);
                    changed.touched = true;
                }
            }
        }
        changed
    }

    fn take_from_cloud(
        &mut self,
        name: &str,
        message: &MsgTwin,
        model: Option<&Model>,
        stamp: Stamp,
        changed: &mut Changed,
    ) -> Result<(), String> {
        check_key(name)?;
        let sides = [
            (message.expected.as_ref(), message.expected_version),
            (message.actual.as_ref(), message.actual_version),
        ];
        let stored = self.properties.get(name);
        let kind = message.metadata.as_ref().map(|metadata| metadata.kind.as_str());
        let deletes = kind == Some(DELETED);
        if let Some(kind) = kind {
            check_type(kind)?;
        }
        let held = stored.map_or_else(Default::default, |p| [p.expected_version, p.actual_version]);
        for ((value, version), held) in sides.into_iter().zip(held) {
            if value.is_none() && !deletes {
                continue;
            }
            match version {
                None if deletes => {}
                None => return Err("version not allowed be nil while syncing".to_owned()),
                Some(version) if held.cloud > version.cloud => return Err("version not allowed".to_owned()),
                Some(version) if held.edge > version.edge => {
                    return Err("not allowed to sync due to version conflict".to_owned());
                }
                Some(_) => {}
            }
            if let Some(TwinValue { value, .. }) = value.filter(|_| !deletes) {
                let Some(value) = value else { return Err("a value is missing".to_owned()) };
                check_text(value)?;
                let own = stored.and_then(|p| p.kind.as_deref()).filter(|kind| *kind != DELETED);
                check_value(own.or(kind).unwrap_or(DEFAULT_TYPE), value)?;
                if let Some(model) = model {
                    model.check(name, value)?;
                }
            }
        }
        if deletes && stored.is_none_or(|property| property.required || property.is_deleted()) {
            return Ok(());
        }
        self.make_room(std::iter::once(&name.to_owned()))?;
        let is_new = !self.properties.contains_key(name);
        let property = self.properties.entry(name.to_owned()).or_default();
        let before = property.clone();
        let last = (!is_new && !property.is_deleted()).then(|| property.message());
        if deletes {
            erase(property);
        } else if last.is_none() {
            property.kind = kind.filter(|kind| !kind.is_empty()).map(str::to_owned);
            property.required = message.optional == Some(false);
        }
        let same =
            |held: &Option<Held>, value: &String| held.as_ref().is_some_and(|held| held.value == *value);
        for (is_desired, (value, version)) in [true, false].into_iter().zip(sides) {
            let (held, own) = if is_desired {
                (&property.expected, &mut property.expected_version)
            } else {
                (&property.actual, &mut property.actual_version)
            };
            *own = version.unwrap_or(*own);
            let Some(value) = value.and_then(|held| held.value.clone()).filter(|_| !deletes) else {
                continue;
            };
            if same(held, &value) {
                continue;
            }
            let at_ms = property.next_ms(stamp.now_ms);
            let held = Some(Held { value, at_ms });
            if is_desired {
                property.expected = held;
                property.is_overridden = true;
            } else {
                property.actual = held;
            }
        }
        if *property != before || is_new {
            changed.desired |= property.expected.as_ref().map(|held| &held.value)
                != before.expected.as_ref().map(|held| &held.value);
            mark(property, stamp);
            changed.note(name, last, property);
        }
        Ok(())
    }
}

fn erase(property: &mut Property) {
    property.expected = None;
    property.actual = None;
    property.is_overridden = false;
    property.kind = Some(DELETED.to_owned());
}

/// The cloud is to be told.
fn mark(property: &mut Property, stamp: Stamp) {
    property.mark = stamp.number;
    if property.since == 0 {
        property.since = stamp.number;
    }
}
