//! The search for the labels that an RPC's values match, in steps that fit into a pick.

use std::rc::Rc;

use hotpick_guest::{Alarms, Nanos, timers};

use super::labels::Search;
use super::{Color, Numbers};

/// Steps of regular expressions that one pick may take. The timer continues with values that need more.
const STEPS: usize = 20_000;
/// Steps that one call of the timer may take. One expression takes at most 512,000, so that every search advances.
const STEPS_BESIDE: usize = 600_000;
/// Number of the timer that continues searches.
const GO_ON: u32 = 0;
/// Delay of the timer [ns].
const SOON: Nanos = 10_000_000;
/// Most searches at once. RPCs with other values are queued.
const SEARCHES: usize = 64;

/// Values, and for each key the labels that the value matches.
#[derive(Debug)]
pub(crate) struct Matches(pub(crate) Vec<(Asked, Search)>);

/// The value of an RPC for a key.
#[derive(Debug)]
pub(crate) enum Asked {
    Nothing,
    Text(String),
    /// A value that no attribute can match.
    Other,
}

impl Color {
    /// Returns the labels that values match. `None`: the search takes longer than a pick may.
    pub(crate) fn matches(
        &mut self,
        numbers: Numbers,
        values: impl FnOnce(&Self) -> Vec<Asked>,
    ) -> Option<Rc<Matches>> {
        if let Some(known) = self.matches.get_mut(numbers) {
            return Some(Rc::clone(known));
        }
        if self.searches.contains_key(&numbers) {
            // The timer continues this search.
            return None;
        }
        if self.searches.len() >= SEARCHES {
            return None;
        }
        let begin = |(at, asked): (usize, Asked)| {
            let search = match &asked {
                Asked::Text(value) => self.labels[at].search(value),
                Asked::Nothing | Asked::Other => Search::default(),
            };
            (asked, search)
        };
        let mut matches = Matches(values(self).into_iter().enumerate().map(begin).collect());
        let mut steps = STEPS;
        if self.go_on(&mut matches, &mut steps) {
            return Some(self.remember(numbers, matches));
        }
        self.searches.insert(numbers, matches);
        None
    }

    pub(crate) fn go_on_soon(&mut self) {
        // Set only once: a timer that is set again and again never fires.
        self.goes_on = self.goes_on || timers::schedule(GO_ON, SOON).is_ok();
    }

    fn go_on(&mut self, matches: &mut Matches, steps: &mut usize) -> bool {
        let Self { labels, room, .. } = self;
        matches.0.iter_mut().zip(labels).all(|((asked, search), labels)| match asked {
            Asked::Text(value) => labels.go_on(search, value, room, steps),
            Asked::Nothing | Asked::Other => true,
        })
    }

    fn remember(&mut self, numbers: Numbers, matches: Matches) -> Rc<Matches> {
        let size = matches.0.iter().map(|(_, search)| search.found.len()).sum();
        let matches = Rc::new(matches);
        self.matches.insert(numbers, Rc::clone(&matches), size);
        matches
    }
}

impl Alarms for Color {
    /// Continues the searches that took longer than a pick may. RPCs that wait for them are picked again.
    fn fired(&mut self, _id: u32, _now: Nanos) {
        let mut steps = STEPS_BESIDE;
        for (numbers, mut matches) in std::mem::take(&mut self.searches) {
            if steps > 0 && self.go_on(&mut matches, &mut steps) {
                self.remember(numbers, matches);
            } else {
                self.searches.insert(numbers, matches);
            }
        }
        self.goes_on = false;
        if !self.searches.is_empty() {
            self.go_on_soon();
        }
    }
}
