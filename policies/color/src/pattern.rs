//! Regular expressions that match a whole value. regex-lite, the smallest crate for this, would add 73 KB to the
//! policy.
//!
//! Supported are characters, `.`, classes (`[a-z]`, `[^/]`, `\d`, `\w`, `\s`), groups, `|`, and the repetitions `*`,
//! `+`, `?`, `{2}`, `{2,}` and `{2,5}`. The time of a match is linear in the length of the value, because all paths
//! through the expression advance at once (Thompson, 1968).

/// A compiled expression.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    steps: Vec<Step>,
    /// What every matching text starts with.
    prefix: String,
}

#[derive(Clone, Debug)]
enum Step {
    /// Matches one character of this class.
    One(Class),
    /// Continues at both steps.
    Split(usize, usize),
    Jump(usize),
    Done,
}

#[derive(Clone, Debug, Default)]
struct Class {
    is_negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    /// Returns the only character of the class, if it has just one.
    fn only(&self) -> Option<char> {
        match self.ranges[..] {
            [(first, last)] if first == last && !self.is_negated => Some(first),
            _ => None,
        }
    }

    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != self.is_negated
    }
}

/// A part of an expression.
enum Node {
    One(Class),
    /// All of them in sequence.
    All(Vec<Self>),
    /// Any one of them.
    Any(Vec<Self>),
    /// Repeated, with the least and greatest count.
    Repeat(Box<Self>, usize, Option<usize>),
}

/// Most steps of an expression. More would take too long to match.
const LONGEST: usize = 1_000;
/// Greatest count of a repetition.
const MOST: usize = 100;
/// Deepest nesting of groups.
const DEEPEST: usize = 20;

impl Pattern {
    /// Compiles an expression.
    pub(crate) fn new(text: &str) -> Result<Self, &'static str> {
        let mut reader = Reader { rest: text.chars(), depth: 0 };
        let node = reader.alternatives()?;
        if reader.rest.next().is_some() {
            return Err("unmatched ')'");
        }
        let (mut steps, mut work) = (Vec::new(), 0);
        emit(&node, &mut steps, &mut work)?;
        steps.push(Step::Done);
        // The leading characters that no path skips.
        let literal = steps.iter().map_while(|step| match step {
            Step::One(class) => class.only(),
            _ => None,
        });
        let prefix: String = literal.collect();
        // No step refers to these: all other steps and all jumps come after them.
        let length = prefix.chars().count();
        steps.drain(..length);
        for step in &mut steps {
            match step {
                Step::Split(one, other) => (*one, *other) = (*one - length, *other - length),
                Step::Jump(to) => *to -= length,
                Step::One(_) | Step::Done => {}
            }
        }
        Ok(Self { steps, prefix })
    }

    /// What every matching text starts with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Number of steps, which determines the memory that the expression takes.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Returns whether the whole text matches. `None`: the match takes more than `steps`.
    pub(crate) fn matches(&self, text: &str, room: &mut Room, steps: &mut usize) -> Option<bool> {
        let mut pay = |cost: usize| {
            let left = steps.checked_sub(cost);
            *steps = left.unwrap_or(0);
            left
        };
        pay(BEGINNING)?;
        let Some(text) = text.strip_prefix(self.prefix.as_str()) else { return Some(false) };
        let Room { now, next } = room;
        now.clear(self.steps.len());
        let mut cost = now.add(&self.steps, 0);
        for c in text.chars() {
            pay(cost + now.at.len() + 1)?;
            next.clear(self.steps.len());
            cost = 0;
            for at in &now.at {
                if let Step::One(class) = &self.steps[*at]
                    && class.has(c)
                {
                    cost += next.add(&self.steps, at + 1);
                }
            }
            if next.at.is_empty() {
                return Some(false);
            }
            std::mem::swap(now, next);
        }
        Some(now.at.iter().any(|at| matches!(self.steps[*at], Step::Done)))
    }
}

/// Cost of starting a match, in steps.
const BEGINNING: usize = 10;

/// Buffers for matching.
#[derive(Debug, Default)]
pub(crate) struct Room {
    now: Threads,
    next: Threads,
}

/// The current positions of all paths through the expression.
#[derive(Debug, Default)]
struct Threads {
    at: Vec<usize>,
    /// For each step, the last round in which it was reached. A new round makes clearing unnecessary.
    seen: Vec<u64>,
    round: u64,
    to_do: Vec<usize>,
}

impl Threads {
    fn clear(&mut self, steps: usize) {
        self.at.clear();
        self.round += 1;
        if self.seen.len() < steps {
            self.seen.resize(steps, 0);
        }
    }

    /// Adds a step and all steps that it leads to. Returns the number of steps visited.
    fn add(&mut self, steps: &[Step], at: usize) -> usize {
        let mut looked = 0;
        self.to_do.push(at);
        while let Some(at) = self.to_do.pop() {
            looked += 1;
            if std::mem::replace(&mut self.seen[at], self.round) == self.round {
                continue;
            }
            match steps[at] {
                Step::Jump(to) => self.to_do.push(to),
                Step::Split(one, other) => self.to_do.extend([other, one]),
                Step::One(_) | Step::Done => self.at.push(at),
            }
        }
        looked
    }
}

fn emit(node: &Node, steps: &mut Vec<Step>, work: &mut usize) -> Result<(), &'static str> {
    *work += 1;
    // `work` is counted as well because repetitions of nothing emit no steps.
    if steps.len() > LONGEST || *work > LONGEST * 10 {
        return Err("too long or too many repetitions");
    }
    match node {
        Node::One(class) => steps.push(Step::One(class.clone())),
        Node::All(nodes) => nodes.iter().try_for_each(|node| emit(node, steps, work))?,
        Node::Any(nodes) => {
            let mut ends = Vec::new();
            for (at, node) in nodes.iter().enumerate() {
                let split = steps.len();
                let is_last = at + 1 == nodes.len();
                if !is_last {
                    steps.push(Step::Split(split + 1, split));
                }
                emit(node, steps, work)?;
                if !is_last {
                    ends.push(steps.len());
                    steps.push(Step::Jump(0));
                    steps[split] = Step::Split(split + 1, steps.len());
                }
            }
            for end in ends {
                steps[end] = Step::Jump(steps.len());
            }
        }
        Node::Repeat(node, least, most) => {
            for _ in 0..*least {
                emit(node, steps, work)?;
            }
            for _ in *least..most.unwrap_or(least + 1) {
                let split = steps.len();
                steps.push(Step::Jump(0));
                emit(node, steps, work)?;
                if most.is_none() {
                    steps.push(Step::Jump(split));
                }
                // Skips this repetition and all further ones, which are nested in it.
                steps[split] = Step::Split(split + 1, steps.len());
            }
        }
    }
    Ok(())
}

struct Reader<'a> {
    rest: std::str::Chars<'a>,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.rest.next();
        }
        found
    }

    fn alternatives(&mut self) -> Result<Node, &'static str> {
        let mut any = vec![self.sequence()?];
        while self.eat('|') {
            any.push(self.sequence()?);
        }
        Ok(Node::Any(any))
    }

    fn sequence(&mut self) -> Result<Node, &'static str> {
        let mut all = Vec::new();
        while let Some(c) = self.peek().filter(|c| !matches!(c, '|' | ')')) {
            self.rest.next();
            let mut node = self.one(c)?;
            let mut stacked = 0;
            while let Some((least, most)) = self.repetition()? {
                stacked += 1;
                if stacked > DEEPEST {
                    return Err("too many stacked repetitions");
                }
                node = Node::Repeat(Box::new(node), least, most);
            }
            all.push(node);
        }
        Ok(Node::All(all))
    }

    fn one(&mut self, c: char) -> Result<Node, &'static str> {
        Ok(Node::One(match c {
            '(' => return self.group(),
            '[' => self.class()?,
            // As in other engines, all characters except the line feed.
            '.' => Class { is_negated: true, ranges: vec![('\n', '\n')] },
            '\\' => self.escaped()?,
            '*' | '+' | '?' | '{' => return Err("nothing to repeat"),
            '^' | '$' => return Err("'^' and '$' are not supported: the whole value is matched"),
            c => Class { is_negated: false, ranges: vec![(c, c)] },
        }))
    }

    fn group(&mut self) -> Result<Node, &'static str> {
        if self.eat('?') && !self.eat(':') {
            return Err("'(?' is only supported as '(?:'");
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("groups are nested too deeply");
        }
        let group = self.alternatives()?;
        self.depth -= 1;
        if self.eat(')') { Ok(group) } else { Err("unclosed '('") }
    }

    fn repetition(&mut self) -> Result<Option<(usize, Option<usize>)>, &'static str> {
        let often = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counted().map(Some),
            _ => return Ok(None),
        };
        self.rest.next();
        self.lazily();
        Ok(Some(often))
    }

    fn counted(&mut self) -> Result<(usize, Option<usize>), &'static str> {
        self.rest.next();
        let least = self.number().ok_or("expected a number after '{'")?;
        let most = if self.eat(',') { self.number() } else { Some(least) };
        if !self.eat('}') {
            return Err("unclosed '{'");
        }
        if least > MOST || most.is_some_and(|most| most > MOST || most < least) {
            return Err("repetition count out of range");
        }
        self.lazily();
        Ok((least, most))
    }

    /// A '?' after a repetition asks for the shortest match. That makes no difference when the whole value must match.
    fn lazily(&mut self) {
        self.eat('?');
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = None;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            self.rest.next();
            number = Some((number.unwrap_or(0) * 10 + digit as usize).min(MOST + 1));
        }
        number
    }

    fn class(&mut self) -> Result<Class, &'static str> {
        let mut class = Class { is_negated: self.eat('^'), ranges: Vec::new() };
        loop {
            let c = self.rest.next().ok_or("unclosed '['")?;
            let first = match c {
                ']' if !class.ranges.is_empty() => return Ok(class),
                '[' => return Err("'[' in a class must be written as '\\['"),
                '\\' => {
                    let escaped = self.escaped()?;
                    match escaped.ranges[..] {
                        [(c, last)] if c == last && !escaped.is_negated => c,
                        _ if escaped.is_negated => {
                            return Err("a negated class inside a class is not supported");
                        }
                        _ => {
                            class.ranges.extend(escaped.ranges);
                            continue;
                        }
                    }
                }
                c => c,
            };
            let mut ahead = self.rest.clone();
            let last = match (ahead.next(), ahead.next()) {
                (Some('-'), Some(last)) if last != ']' => {
                    self.rest = ahead;
                    if last == '\\' {
                        self.rest.next().ok_or("expected a character after '\\'")?
                    } else {
                        last
                    }
                }
                _ => first,
            };
            if last < first {
                return Err("range ends before its start");
            }
            class.ranges.push((first, last));
        }
    }

    fn escaped(&mut self) -> Result<Class, &'static str> {
        let c = self.rest.next().ok_or("expected a character after '\\'")?;
        let ranges = match c.to_ascii_lowercase() {
            'd' => vec![('0', '9')],
            'w' => vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            's' => vec![('\t', '\r'), (' ', ' ')],
            _ if c.is_ascii_alphanumeric() => return Err("unknown escape"),
            _ => vec![(c, c)],
        };
        Ok(Class { is_negated: c.is_ascii_uppercase(), ranges })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let compiled = Pattern::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        compiled.matches(text, &mut Room::default(), &mut usize::MAX.clone()).expect("time enough")
    }

    #[test]
    fn the_whole_value_is_matched() {
        assert!(matches("v[12]", "v1") && matches("v[12]", "v2"));
        assert!(!matches("v[12]", "v3") && !matches("v[12]", "v12") && !matches("v[12]", "xv1"));
        assert!(matches("eu-.*", "eu-west-1") && !matches("eu-.+", "eu-"));
        assert!(
            matches("(blue|green)-\\d{2,3}", "green-123") && !matches("(blue|green)-\\d{2,3}", "green-1")
        );
        assert!(matches("", "") && !matches("", "a"));
        // Lazy repetitions match the same values as greedy ones.
        assert!(matches("a+?b*?c??d{2}?", "aadd") && !matches("a+?", "") && !matches("a{2}?", ""));
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for pattern in
            ["(", ")", "[", "[a", "*", "a{", "a{2", "a{3,2}", "a{101}", "\\", "\\y", "^a", "(?=a)", "[b-a]"]
        {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
        assert!(Pattern::new("((a{100}){100}){100}").is_err());
        assert!(Pattern::new(&"(".repeat(1_000)).is_err());
        // Repetitions of nothing and of one another: they would take forever, or overflow the stack.
        assert!(Pattern::new("(){100}{100}{100}{100}{100}").is_err());
        assert!(Pattern::new("a{0}{100}{100}{100}{100}").is_err());
        assert!(Pattern::new(&format!("a{}", "{1}".repeat(10_000))).is_err());
    }

    #[test]
    fn none_takes_long() {
        // The number of paths grows exponentially: backtracking engines take forever.
        assert!(!matches("(a*)*(a|aa)*b", &"a".repeat(2_000)));
        let (pattern, mut steps) = (Pattern::new("(a|b|c)*").expect("good"), 100);
        let room = &mut Room::default();
        assert_eq!(pattern.matches("abc", room, &mut steps), Some(true));
        assert_eq!(pattern.matches(&"a".repeat(100), room, &mut steps), None);
        assert_eq!(steps, 0, "all that there was");
    }

    proptest! {
        #[test]
        fn it_matches_what_others_do(pattern in "[abc.|()*+?\\[\\]^{}0-9,\\\\dw-]{1,10}", texts in prop::collection::vec("[abc01_\n-]{0,6}", 8)) {
            let (Ok(ours), Ok(theirs)) = (Pattern::new(&pattern), regex_lite::Regex::new(&format!("^(?:{pattern})$"))) else {
                return Ok(());
            };
            let mut room = Room::default();
            for text in texts {
                prop_assert_eq!(ours.matches(&text, &mut room, &mut usize::MAX.clone()), Some(theirs.is_match(&text)), "{:?} {:?}", pattern, text);
            }
        }
    }
}
