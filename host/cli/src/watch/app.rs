//! What `hotpick top` shows and how keys change it. Pure.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Channel, Endpoint, Event, Model, Update};

/// The state of the view.
#[derive(Debug, Default)]
pub(crate) struct App {
    pub(super) model: Model,
    pub(super) tab: Tab,
    pub(super) sort: Column,
    pub(super) is_reversed: bool,
    /// Endpoints and policies that contain this text are shown.
    pub(super) filter: String,
    /// Keys go into the filter.
    pub(super) is_typing: bool,
    /// The selected row.
    pub(super) selected: usize,
    pub(super) is_detailed: bool,
    /// Why there are no new numbers. Empty: there are.
    pub(super) problem: String,
    /// A line of the program's own, such as what the demo does.
    pub(super) note: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Endpoints,
    Policies,
    Events,
}

/// A column that endpoints are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Column {
    Address,
    State,
    #[default]
    Picks,
    Failed,
    InFlight,
    Latency,
}

impl Tab {
    pub(super) const ALL: [Self; 3] = [Self::Endpoints, Self::Policies, Self::Events];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Policies => "policies",
            Self::Events => "events",
        }
    }
}

impl Column {
    pub(super) const ALL: [Self; 6] =
        [Self::Address, Self::State, Self::InFlight, Self::Picks, Self::Failed, Self::Latency];
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Nothing,
    Quit,
}

impl App {
    /// Takes in a message of the listener.
    pub(crate) fn update(&mut self, update: Update) {
        self.problem.clear();
        self.model.update(update);
        self.selected = self.selected.min(self.rows().saturating_sub(1));
    }

    /// Shows a line of the program's own.
    pub(crate) fn say(&mut self, line: String) {
        if self.note.len() == 6 {
            self.note.remove(0);
        }
        self.note.push(line);
    }

    /// A key was pressed.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Ask {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Ask::Quit;
        }
        if self.is_typing {
            match key.code {
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char(letter) => self.filter.push(letter),
                _ => {}
            }
            self.selected = 0;
            return Ask::Nothing;
        }
        let last = self.rows().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => return Ask::Quit,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Char('s') => self.sort = next(&Column::ALL, self.sort),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Tab => {
                self.tab = next(&Tab::ALL, self.tab);
                (self.selected, self.is_detailed) = (0, false);
            }
            KeyCode::Enter => self.is_detailed = !self.is_detailed && self.tab != Tab::Events,
            KeyCode::Esc if self.is_detailed => self.is_detailed = false,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected = (self.selected + 20).min(last),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(20),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            _ => {}
        }
        Ask::Nothing
    }

    /// The events that are shown, newest first.
    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        let wanted = self.filter.to_lowercase();
        let wants = move |event: &&Event| {
            let mut texts =
                [Some(&event.kind), event.target.as_ref(), Some(&event.text)].into_iter().flatten();
            wanted.is_empty() || texts.any(|text| text.to_lowercase().contains(&wanted))
        };
        self.model.events.iter().rev().filter(wants)
    }

    /// The endpoints that are shown, in their order, each with its channel.
    pub(super) fn endpoints(&self) -> Vec<(&Channel, &Endpoint)> {
        let all = self
            .model
            .channels
            .iter()
            .flat_map(|channel| channel.endpoints.iter().map(move |endpoint| (channel, endpoint)));
        let mut shown: Vec<_> = all.filter(|(channel, endpoint)| self.wants(channel, endpoint)).collect();
        shown.sort_by(|(_, a), (_, b)| {
            let order = self.compare(a, b);
            let order = if self.is_reversed { order.reverse() } else { order };
            order.then_with(|| a.addresses.cmp(&b.addresses))
        });
        shown
    }

    /// Compares by the column: texts from the first, numbers from the largest.
    fn compare(&self, a: &Endpoint, b: &Endpoint) -> Ordering {
        match self.sort {
            Column::Address => a.addresses.cmp(&b.addresses),
            Column::State => a.state.cmp(&b.state),
            Column::Picks => b.numbers.picks.total_cmp(&a.numbers.picks),
            Column::Failed => b.numbers.failed.total_cmp(&a.numbers.failed),
            Column::InFlight => b.numbers.in_flight.cmp(&a.numbers.in_flight),
            Column::Latency => b.numbers.latency.total_cmp(&a.numbers.latency),
        }
    }

    fn wants(&self, channel: &Channel, endpoint: &Endpoint) -> bool {
        let texts = endpoint.addresses.iter().chain([&channel.target, &endpoint.state]);
        let attributes = endpoint.attributes.iter().map(|(key, value)| format!("{key}={value}"));
        self.filter.is_empty()
            || texts
                .cloned()
                .chain(attributes)
                .any(|text| text.to_lowercase().contains(&self.filter.to_lowercase()))
    }

    /// Number of rows of the current table.
    pub(super) fn rows(&self) -> usize {
        match self.tab {
            Tab::Endpoints => self.endpoints().len(),
            Tab::Policies => self.model.policies.len(),
            Tab::Events => self.events().count(),
        }
    }
}

fn next<T: Copy + PartialEq>(all: &[T], current: T) -> T {
    let at = all.iter().position(|one| *one == current).unwrap_or_default();
    all[(at + 1) % all.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::view::tests::{model, tick};

    fn app() -> App {
        let mut app = App::default();
        app.update(Update::Snapshot(Box::new(model())));
        app.update(tick());
        app
    }

    fn press(app: &mut App, keys: &str) {
        for letter in keys.chars() {
            let code = match letter {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                letter => KeyCode::Char(letter),
            };
            app.key(KeyEvent::from(code));
        }
    }

    fn addresses(app: &App) -> Vec<String> {
        app.endpoints().iter().map(|(_, endpoint)| endpoint.addresses[0].clone()).collect()
    }

    #[test]
    fn endpoints_are_sorted_and_filtered() {
        let mut app = app();
        assert_eq!(addresses(&app), ["10.0.0.2:1", "10.0.0.1:1", "10.0.0.3:1"], "most RPCs first");
        press(&mut app, "r");
        assert_eq!(addresses(&app), ["10.0.0.3:1", "10.0.0.1:1", "10.0.0.2:1"]);
        press(&mut app, "rsss");
        assert_eq!(app.sort, Column::Address);
        assert_eq!(addresses(&app), ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        press(&mut app, "/zone=b\n");
        assert_eq!(addresses(&app), ["10.0.0.2:1"]);
        assert_eq!(app.key(KeyEvent::from(KeyCode::Esc)), Ask::Nothing);
        assert_eq!(addresses(&app).len(), 3);
    }

    #[test]
    fn keys_move_and_quit() {
        let mut app = app();
        press(&mut app, "jjjjk");
        assert_eq!(app.selected, 1);
        press(&mut app, "\n");
        assert!(app.is_detailed);
        press(&mut app, "\t");
        assert_eq!((app.tab, app.selected, app.is_detailed), (Tab::Policies, 0, false));
        assert_eq!(app.key(KeyEvent::from(KeyCode::Char('q'))), Ask::Quit);
        press(&mut app, "/q");
        assert_eq!(app.filter, "q", "a letter of the filter");
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(app.key(control_c), Ask::Quit);
    }

    /// A snapshot has no numbers, and must not set them to zero.
    #[test]
    fn numbers_outlast_a_snapshot() {
        let mut app = app();
        app.update(Update::Snapshot(Box::new(model())));
        assert_eq!(addresses(&app)[0], "10.0.0.2:1");
        assert!(app.endpoints()[0].1.numbers.picks > 0.0);
    }
}
