//! The attributes of a span: its own, and among them a run of those that many spans have in common.
//!
//! At 100,000 spans a second, what a connection's exchanges share (addresses, ports, versions) is neither copied nor
//! written out anew for each of them.

use std::sync::{Arc, OnceLock};

use super::Value;

pub type Attribute = (&'static str, Value);

/// In order, which says nothing; each key once.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    own: Vec<Attribute>,
    /// After how many of `own` they stand.
    common: Option<(usize, Arc<Common>)>,
}

/// Attributes of many spans.
#[derive(Debug)]
pub struct Common {
    list: Box<[Attribute]>,
    encoded: OnceLock<Box<[u8]>>,
}

/// The parts of [`Attributes`], in order.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    pub before: &'a [Attribute],
    pub common: Option<&'a Common>,
    pub after: &'a [Attribute],
}

impl Attributes {
    pub(crate) fn with_capacity(own: usize) -> Self {
        Self { own: Vec::with_capacity(own), common: None }
    }

    pub fn push(&mut self, attribute: Attribute) {
        self.own.push(attribute);
    }

    /// Appends those that it has in common with other spans, once.
    pub(crate) fn push_common(&mut self, common: Arc<Common>) {
        self.common = Some((self.own.len(), common));
    }

    pub fn parts(&self) -> Parts<'_> {
        match &self.common {
            Some((at, common)) => {
                let (before, after) = self.own.split_at_checked(*at).unwrap_or((&self.own, &[]));
                Parts { before, common: Some(common), after }
            }
            None => Parts { before: &self.own, common: None, after: &[] },
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Attribute> {
        let Parts { before, common, after } = self.parts();
        before.iter().chain(common.map_or(&[][..], Common::list)).chain(after)
    }
}

impl Common {
    pub fn new(list: Vec<Attribute>) -> Self {
        Self { list: list.into(), encoded: OnceLock::new() }
    }

    pub fn list(&self) -> &[Attribute] {
        &self.list
    }

    /// What `encode` appends for all of them, made when first asked for: there is one encoder.
    pub fn encoded(&self, encode: impl FnOnce(&[Attribute], &mut Vec<u8>)) -> &[u8] {
        self.encoded.get_or_init(|| {
            let mut encoded = Vec::new();
            encode(&self.list, &mut encoded);
            encoded.into()
        })
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl From<Vec<Attribute>> for Attributes {
    fn from(own: Vec<Attribute>) -> Self {
        Self { own, common: None }
    }
}

impl Extend<Attribute> for Attributes {
    fn extend<I: IntoIterator<Item = Attribute>>(&mut self, attributes: I) {
        self.own.extend(attributes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&'static str]) -> Vec<Attribute> {
        names.iter().map(|name| (*name, Value::Bool(true))).collect()
    }

    #[test]
    fn the_common_ones_stand_where_they_were_put() {
        for at in 0..=3 {
            let own = list(&["a", "b", "c"]);
            let mut attributes = Attributes::with_capacity(3);
            attributes.extend(own[..at].iter().cloned());
            attributes.push_common(Arc::new(Common::new(list(&["x", "y"]))));
            attributes.extend(own[at..].iter().cloned());
            let mut all = own.clone();
            all.splice(at..at, list(&["x", "y"]));
            assert_eq!(attributes, Attributes::from(all));
            assert_ne!(attributes, Attributes::from(own));
        }
    }

    #[test]
    fn they_are_encoded_once() {
        let common = Common::new(list(&["x", "y"]));
        let encode = |list: &[Attribute], out: &mut Vec<u8>| out.push(list.len() as u8);
        assert_eq!(common.encoded(encode), [2]);
        assert_eq!(common.encoded(|_, _| panic!("again")), [2]);
    }
}
