//! Values of an endpoint attribute, and the search for those that a value matches.

use hotpick_guest::{Map, hash};

use crate::config::Matching;
use crate::pattern::{Pattern, Room};

/// Longest value that is matched against regular expressions, because picks have little time [bytes].
const LONGEST: usize = 256;

/// The distinct values of an attribute, by index.
#[derive(Debug)]
pub(crate) struct Labels {
    matching: Matching,
    all: Vec<Label>,
    /// Index of each label by the hash of its text. If the hash is taken, the next free number is used; the texts are
    /// compared.
    places: Map<u64, u32>,
    /// Indexes of labels by the hash of the prefix that a matching value must have. The prefixes are compared, too.
    by_prefix: Map<u64, Vec<u32>>,
    /// Distinct lengths of these prefixes [bytes].
    lengths: Vec<usize>,
}

/// A value of the attribute.
#[derive(Debug)]
struct Label {
    text: String,
    pattern: Option<Pattern>,
}

/// A search for the labels that a value matches.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// Labels that have not been compared yet.
    candidates: Vec<usize>,
    /// Labels that match, with their score: more is better.
    pub(crate) found: Vec<(usize, u64)>,
}

impl Labels {
    pub(crate) fn new(matching: Matching) -> Self {
        Self {
            matching,
            all: Vec::new(),
            places: Map::default(),
            by_prefix: Map::default(),
            lengths: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn place(&self, text: &str) -> Option<usize> {
        self.find(text).ok()
    }

    /// Returns the index of a text, or else a free number for it.
    fn find(&self, text: &str) -> Result<usize, u64> {
        let mut at = hash(text.as_bytes());
        while let Some(place) = self.places.get(&at) {
            if self.all[*place as usize].text == text {
                return Ok(*place as usize);
            }
            at = at.wrapping_add(1);
        }
        Err(at)
    }

    /// Returns the number of steps of all expressions.
    pub(crate) fn steps(&self) -> usize {
        self.all.iter().filter_map(|label| label.pattern.as_ref()).map(Pattern::len).sum()
    }

    /// Adds a label. As a regular expression without a pattern, it matches nothing.
    pub(crate) fn add(&mut self, text: String, pattern: Option<Pattern>) -> usize {
        let place = self.all.len();
        let number = u32::try_from(place).unwrap_or(u32::MAX);
        let prefix = match (self.matching, &pattern) {
            (Matching::Prefix, _) => Some(text.as_str()),
            (_, pattern) => pattern.as_ref().map(Pattern::prefix),
        };
        if let Some(prefix) = prefix {
            if !self.lengths.contains(&prefix.len()) {
                self.lengths.push(prefix.len());
            }
            self.by_prefix.entry(hash(prefix.as_bytes())).or_default().push(number);
        }
        if let Err(free) = self.find(&text) {
            self.places.insert(free, number);
        }
        self.all.push(Label { text, pattern });
        place
    }

    /// Takes a label out of a list that is being replaced.
    pub(crate) fn take(&mut self, place: usize) -> (String, Option<Pattern>) {
        let label = &mut self.all[place];
        (std::mem::take(&mut label.text), label.pattern.take())
    }

    /// Starts a search for the labels that a value matches.
    pub(crate) fn search(&self, value: &str) -> Search {
        let begins = || self.lengths.iter().filter_map(|length| value.get(..*length));
        let beginning = || {
            let found = begins().filter_map(|prefix| self.by_prefix.get(&hash(prefix.as_bytes())));
            found.flatten().map(|place| *place as usize)
        };
        let mut search = Search::default();
        match self.matching {
            Matching::Exact => search.found.extend(self.place(value).map(|place| (place, 1))),
            Matching::Prefix => {
                let begins = beginning().filter(|place| value.starts_with(&self.all[*place].text));
                search.found.extend(begins.map(|place| (place, self.all[place].text.len() as u64 + 1)));
            }
            Matching::Regex if value.len() <= LONGEST => search.candidates.extend(beginning()),
            Matching::Regex => {}
        }
        search
    }

    /// Continues a search while steps are left. Returns whether it is complete.
    pub(crate) fn go_on(&self, search: &mut Search, value: &str, room: &mut Room, steps: &mut usize) -> bool {
        while let Some(place) = search.candidates.last() {
            let pattern = self.all[*place].pattern.as_ref();
            match pattern.map_or(Some(false), |pattern| pattern.matches(value, room, steps)) {
                None => return false,
                Some(true) => search.found.push((*place, 1)),
                Some(false) => {}
            }
            search.candidates.pop();
        }
        true
    }
}
