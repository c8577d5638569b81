//! What the attributes of endpoints are, and which of them a value matches.

use hotpick_guest::{Map, hash};

use crate::config::Matching;
use crate::pattern::{Pattern, Room};

/// A longer value matches no regular expression: picks have little time.
const LONGEST: usize = 256;

/// The values of an attribute, each once, by their places.
#[derive(Debug)]
pub(crate) struct Labels {
    matching: Matching,
    all: Vec<Label>,
    /// Their places, by the hashes of their texts; one whose hash is taken has the next that is free. The texts are compared.
    places: Map<u64, u32>,
    /// Those that a value can only match if it begins so, by the hashes of these beginnings, which are compared, too.
    by_prefix: Map<u64, Vec<u32>>,
    /// Of these prefixes, in bytes, each once.
    lengths: Vec<usize>,
}

/// An attribute's value.
#[derive(Debug)]
struct Label {
    text: String,
    pattern: Option<Pattern>,
}

/// On the way from a value to the labels that it matches.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// Those that are to be compared yet.
    candidates: Vec<usize>,
    /// What matches, and how well: more is better.
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

    /// The place of a text, or else the free number for it.
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

    /// How many steps its expressions have.
    pub(crate) fn steps(&self) -> usize {
        self.all.iter().filter_map(|label| label.pattern.as_ref()).map(Pattern::len).sum()
    }

    /// One more. Without a pattern a regular expression matches nothing.
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

    /// Takes one out of what is to be forgotten, to be added to what is kept.
    pub(crate) fn take(&mut self, place: usize) -> (String, Option<Pattern>) {
        let label = &mut self.all[place];
        (std::mem::take(&mut label.text), label.pattern.take())
    }

    /// Begins to look for the labels that a value matches.
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

    /// Goes on as long as there are steps. Gives whether it is done.
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
