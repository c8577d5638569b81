//! The ready endpoints that match the values of an RPC.

use hotpick_guest::answers::Answers;
use hotpick_guest::group::Group;
use hotpick_guest::{ConnectivityState, PickInfo, PickResult, SubConn};

use super::labels::Search;
use super::search::{Asked, Matches};
use super::{Color, Known, Numbers};

/// Endpoints, grouped by label.
#[derive(Debug, Default)]
pub(crate) struct ByLabel {
    /// End of each label's range in `ids`.
    ends: Vec<usize>,
    ids: Vec<SubConn>,
}

impl ByLabel {
    pub(crate) fn new<I: Iterator<Item = (SubConn, usize)>>(labels: usize, labelled: impl Fn() -> I) -> Self {
        let mut ends = vec![0; labels];
        labelled().for_each(|(_, label)| ends[label] += 1);
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            // Holds the start of each label's range; the loop below advances it to the end.
            *end = sum - *end;
        }
        let mut ids = vec![0; sum];
        for (id, label) in labelled() {
            ids[ends[label]] = id;
            ends[label] += 1;
        }
        Self { ends, ids }
    }

    pub(crate) fn of(&self, label: usize) -> &[SubConn] {
        let first = label.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.ids[first..self.ends[label]]
    }
}

/// The ready endpoints that match some values.
#[derive(Debug)]
pub(crate) struct Colour {
    pub(crate) group: Group,
    /// No matching endpoint is ready, but one may become ready soon.
    is_coming: bool,
}

impl Colour {
    /// Returns the result for an RPC. `None`: no endpoint matches.
    pub(crate) fn pick(&mut self, info: &PickInfo, answers: &mut Answers) -> Option<PickResult> {
        if self.is_coming {
            return Some(PickResult::Queue);
        }
        self.group.pick(info, answers).map(PickResult::Pick)
    }
}

impl Color {
    pub(crate) fn regroup(&mut self) {
        self.groups.clear();
        self.all.update(self.ready.clone(), &self.weights);
        let labelled =
            |id: &SubConn| self.known.get(*id).is_some_and(|known| known.labels.iter().any(Option::is_some));
        let unlabelled = self.ready.iter().copied().filter(|id| !labelled(id)).collect();
        self.unlabelled.update(unlabelled, &self.weights);
    }

    /// Returns the endpoints for some values: of those that match all values, the ones with the best match for the
    /// first key; of these, the ones with the best match for the second key; and so on.
    pub(crate) fn group(&self, matches: &Matches) -> Colour {
        let asked =
            || matches.0.iter().enumerate().filter(|(_, (asked, _))| !matches!(asked, Asked::Nothing));
        let score_of = |(at, (_, search)): (usize, &(Asked, Search))| {
            let mut scores = vec![0; self.labels[at].len()];
            search.found.iter().for_each(|(label, score)| scores[*label] = *score);
            (at, scores)
        };
        let scores: Vec<_> = asked().map(score_of).collect();
        let score = |known: &Known| -> Option<Numbers> {
            let mut of = Numbers::default();
            for (at, scores) in &scores {
                of[*at] = scores[known.labels[*at]?];
                if of[*at] == 0 {
                    return None;
                }
            }
            Some(of)
        };
        let endpoints_of = |at: usize| {
            let found = matches.0[at].1.found.iter();
            found.map(move |(label, _)| self.endpoints_of[at].of(*label))
        };
        // Start from the key with the fewest matching endpoints.
        let fewest = asked().map(|(at, _)| (endpoints_of(at).map(<[SubConn]>::len).sum::<usize>(), at)).min();
        let candidates = fewest.into_iter().flat_map(|(_, at)| endpoints_of(at)).flatten().copied();
        let (mut members, mut best, mut is_coming) = (Vec::new(), Numbers::default(), false);
        for id in candidates {
            let Some(known) = self.known.get(id) else { continue };
            let Some(score) = score(known) else { continue };
            if !known.is_ready {
                is_coming |= self.may_come(id);
                continue;
            }
            if score > best {
                best = score;
                members.clear();
            }
            if score == best {
                members.push(id);
            }
        }
        is_coming &= members.is_empty();
        let mut group = Group::new(self.config.balance);
        group.update(members, &self.weights);
        Colour { group, is_coming }
    }

    /// Whether an RPC can wait for this subconn: it has not failed.
    fn may_come(&self, id: SubConn) -> bool {
        matches!(self.states.of(id), ConnectivityState::Connecting | ConnectivityState::Idle)
    }
}
