//! Draws the view of `hotpick top`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, TableState, Tabs, Wrap};

use super::app::{App, Column, Tab};
use super::model::{Channel, Endpoint, Policy, Rollout, Side};

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &App) {
    let notes = u16::try_from(app.note.len()).unwrap_or_default();
    let lines = channel_lines(app, frame.area().width);
    let channels = u16::try_from(lines.len()).unwrap_or_default().min(12);
    let [head, channels, notes, tabs, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(channels),
        Constraint::Length(notes),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(head_line(app), head);
    frame.render_widget(Text::from(lines), channels);
    frame.render_widget(
        Text::from(app.note.iter().map(|line| Line::from(line.as_str())).collect::<Vec<_>>()),
        notes,
    );
    let names = Tab::ALL.map(Tab::name);
    let selected = Tab::ALL.iter().position(|tab| *tab == app.tab);
    frame.render_widget(Tabs::new(names).select(selected), tabs);
    match app.tab {
        Tab::Endpoints if app.is_detailed => endpoint_detail(frame, body, app),
        Tab::Endpoints => endpoints(frame, body, app),
        Tab::Policies if app.is_detailed => policy_detail(frame, body, app),
        Tab::Policies => policies(frame, body, app),
        Tab::Events => events(frame, body, app),
    }
    frame.render_widget(foot_line(app), foot);
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn head_line(app: &App) -> Line<'_> {
    let mut spans = vec![Span::styled(format!("hotpick {}  ", app.model.version), bold())];
    if !app.problem.is_empty() {
        spans.push(Span::styled(app.problem.as_str(), Style::new().fg(Color::Red)));
    } else if let Some(why) = app.model.not_ready.first() {
        spans.push(Span::styled(format!("not ready: {why}"), Style::new().fg(Color::Yellow)));
    } else {
        spans.push(Span::raw("ready"));
    }
    Line::from(spans)
}

fn channel_lines(app: &App, width: u16) -> Vec<Line<'_>> {
    app.model.channels.iter().flat_map(|channel| channel_line(channel, width.into())).collect()
}

/// A channel in one line if it fits, otherwise with its numbers in a line of their own.
fn channel_line(channel: &Channel, width: usize) -> Vec<Line<'_>> {
    let numbers = &channel.numbers;
    let text = format!(
        "  {}  {}  {} in flight  p50 {}  p99 {}",
        rate(numbers.started.unwrap_or_default(), "RPC/s"),
        rate(numbers.failed.unwrap_or_default(), "errors/s"),
        numbers.in_flight,
        millis(numbers.p50),
        millis(numbers.p99),
    );
    let state = Span::styled(format!(" {}", channel.state), color_of(&channel.state));
    let target = Span::styled(channel.target.as_str(), bold());
    let rest = channel.state.len() + text.chars().count() + channel.policy.text.chars().count();
    let length = channel.target.chars().count() + rest + " ".len() + "  policy ".len();
    let mut lines = if length <= width {
        let policy = Span::raw(format!("  policy {}", channel.policy.text));
        vec![Line::from(vec![target, state, Span::raw(text), policy])]
    } else {
        let policy = Line::from(format!("  policy {}", channel.policy.text));
        vec![Line::from(vec![target, state]), Line::raw(text), policy]
    };
    if let Some(refused) = &channel.refused {
        let text = format!("  a newer policy is refused ({}): {}", refused.stage, refused.reason);
        lines.push(Line::styled(text, Style::new().fg(Color::Yellow)));
    }
    lines
}

fn foot_line(app: &App) -> Line<'_> {
    if app.is_typing {
        return Line::from(format!("filter: {}_   Enter: keep, Esc: clear", app.filter));
    }
    let filter = if app.filter.is_empty() { String::new() } else { format!("  filter {:?}", app.filter) };
    Line::styled(format!("q quit  Tab next  / filter  s sort  r reverse  Enter detail{filter}"), dim())
}

fn color_of(state: &str) -> Style {
    Style::new().fg(match state {
        "READY" | "active" => Color::Green,
        "CONNECTING" | "IDLE" | "loading" | "probation" => Color::Yellow,
        "TRANSIENT_FAILURE" | "rejected" | "quarantined" => Color::Red,
        _ => Color::Reset,
    })
}

/// A column of a table: its head, its least width, and how soon it is left out if the terminal is narrow (0: never).
struct Shown<const N: usize>([(&'static str, u16, u8); N]);

impl<const N: usize> Shown<N> {
    /// Returns which columns fit.
    fn fitting(&self, width: u16) -> [bool; N] {
        let mut fits = [true; N];
        let needed = |fits: &[bool; N]| -> u16 {
            self.0.iter().zip(fits).filter(|(_, fits)| **fits).map(|((_, width, _), _)| width + 1).sum()
        };
        while needed(&fits) > width.saturating_add(1) {
            let dispensable = self.0.iter().enumerate().filter(|(at, (_, _, order))| fits[*at] && *order > 0);
            let Some((last, _)) = dispensable.max_by_key(|(_, (_, _, order))| *order) else { break };
            fits[last] = false;
        }
        fits
    }
}

/// Draws a table of the columns that fit. The columns in `wide` share the rest of the width.
fn table<'a, const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    app: &App,
    columns: &Shown<N>,
    wide: &[usize],
    heads: [Cell<'a>; N],
    rows: impl Iterator<Item = [Cell<'a>; N]>,
) {
    let fits = columns.fitting(area.width);
    let row = |cells: [Cell<'a>; N]| {
        Row::new(cells.into_iter().zip(fits).filter(|(_, fits)| *fits).map(|(cell, _)| cell))
    };
    let widths = columns.0.iter().enumerate().filter(|(at, _)| fits[*at]).map(|(at, (_, width, _))| {
        if wide.contains(&at) { Constraint::Min(*width) } else { Constraint::Length(*width) }
    });
    let table = Table::new(rows.map(row), widths).header(row(heads).style(bold()));
    let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(Some(app.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

const ENDPOINTS: Shown<8> = Shown([
    ("address", 21, 0),
    ("state", 17, 0),
    ("for", 8, 5),
    ("share", 17, 6),
    ("in flight", 11, 2),
    ("RPC/s", 9, 1),
    ("errors/s", 10, 0),
    ("latency", 10, 3),
]);

fn endpoints(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let shown = app.endpoints();
    // Of all endpoints of its channel, whether they are shown or not.
    let total = |channel: &Channel| channel.endpoints.iter().map(|endpoint| endpoint.numbers.picks).sum();
    let rows = shown.iter().map(|(channel, endpoint)| endpoint_row(endpoint, total(channel), app.model.now));
    let sorts = [
        Some(Column::Address),
        Some(Column::State),
        None,
        None,
        Some(Column::InFlight),
        Some(Column::Picks),
        Some(Column::Failed),
        Some(Column::Latency),
    ];
    let heads = std::array::from_fn(|at| {
        let mark = if sorts[at] == Some(app.sort) { if app.is_reversed { " ^" } else { " v" } } else { "" };
        Cell::from(format!("{}{mark}", ENDPOINTS.0[at].0))
    });
    table(frame, area, app, &ENDPOINTS, &[0], heads, rows);
}

fn endpoint_row(endpoint: &Endpoint, total: f64, now: u64) -> [Cell<'_>; 8] {
    let numbers = &endpoint.numbers;
    let share = if total > 0.0 { numbers.picks / total } else { 0.0 };
    let failed = if numbers.failed > 0.0 { Style::new().fg(Color::Red) } else { Style::new() };
    [
        Cell::from(endpoint.addresses.first().map_or("", String::as_str)),
        Cell::from(Span::styled(endpoint.state.as_str(), color_of(&endpoint.state))),
        Cell::from(time(now.saturating_sub(endpoint.since))),
        Cell::from(bar(share)),
        Cell::from(numbers.in_flight.to_string()),
        Cell::from(short(numbers.picks)),
        Cell::from(Span::styled(short(numbers.failed), failed)),
        Cell::from(millis(Some(numbers.latency).filter(|latency| *latency > 0.0))),
    ]
}

fn endpoint_detail(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let shown = app.endpoints();
    let Some((channel, endpoint)) = shown.get(app.selected) else { return };
    let [text, plot] = Layout::vertical([Constraint::Min(8), Constraint::Length(8)]).areas(area);
    let attributes: Vec<_> =
        endpoint.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let max = endpoint.max_streams.map_or("no limit".to_owned(), |max| max.to_string());
    let lines = vec![
        Line::styled(endpoint.addresses.join(", "), bold()),
        Line::from(format!("of {}", channel.target)),
        Line::from(format!("{} for {}", endpoint.state, time(app.model.now.saturating_sub(endpoint.since)))),
        Line::from(format!("last error: {}", endpoint.last_error.as_deref().unwrap_or("none"))),
        Line::from(format!("weight {}   attributes: {}", endpoint.weight, attributes.join(" "))),
        Line::from(format!("connections {}   streams of each: {max}", endpoint.connections)),
        Line::from(format!(
            "{} in flight   {} RPC/s   {} errors/s   latency {}",
            endpoint.numbers.in_flight,
            short(endpoint.numbers.picks),
            short(endpoint.numbers.failed),
            millis(Some(endpoint.numbers.latency)),
        )),
    ];
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), text);
    let picks: Vec<_> = endpoint.picks.iter().copied().collect();
    let width = usize::from(plot.width.saturating_sub(2));
    let last = &picks[picks.len().saturating_sub(width)..];
    frame.render_widget(Sparkline::default().data(last).block(Block::bordered().title("RPC/s")), plot);
}

const POLICIES: Shown<9> = Shown([
    ("policy", 20, 0),
    ("state", 12, 0),
    ("version", 8, 3),
    ("picks/s", 9, 1),
    ("planned", 9, 6),
    ("fallback", 9, 4),
    ("faults", 7, 2),
    ("a pick", 9, 5),
    ("why not active", 14, 0),
]);

fn policies(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let rows = app.model.policies.iter().map(|policy| {
        let version = policy.generation.map_or("none".to_owned(), |generation| format!("#{generation}"));
        let cost = policy.pick_ns.map_or("-".to_owned(), |nanos| format!("{nanos} ns"));
        [
            Cell::from(policy.name.as_str()),
            Cell::from(Span::styled(state(policy), color_of(&policy.state))),
            Cell::from(version),
            Cell::from(short(policy.rates.0)),
            Cell::from(short(policy.rates.1)),
            Cell::from(policy.fallback_picks.to_string()),
            Cell::from(policy.faults_total.to_string()),
            Cell::from(cost),
            Cell::from(why(policy)),
        ]
    });
    table(frame, area, app, &POLICIES, &[0, 8], POLICIES.0.map(|(name, _, _)| Cell::from(name)), rows);
}

/// The state of a policy. A version that no channel uses stays on probation, which says nothing to those who look.
fn state(policy: &Policy) -> &str {
    match policy.state.as_str() {
        "probation" | "active" if policy.channels.is_empty() => "not used",
        state => state,
    }
}

/// Why the file of a policy is not active; empty if it is.
fn why(policy: &Policy) -> String {
    if let Some(rejected) = &policy.rejected {
        return format!("{}: {}", rejected.stage, rejected.reason);
    }
    if let Some(quarantined) = &policy.quarantined {
        return format!("version {} is quarantined: {}", quarantined.generation, quarantined.reason);
    }
    if let Some(rollout) = &policy.rollout {
        return rollout_text(rollout);
    }
    policy
        .refusals
        .first()
        .map_or(String::new(), |one| format!("{}: {}: {}", one.target, one.stage, one.reason))
}

fn rollout_text(rollout: &Rollout) -> String {
    let Rollout { mode, generation, step, steps, share, .. } = rollout;
    let paused = if rollout.paused { ", paused" } else { "" };
    if mode == "shadow" {
        let Rollout { compared, agreed, .. } = rollout;
        format!("version {generation} is a shadow{paused}: {agreed} of {compared} picks are the same")
    } else {
        format!(
            "version {generation} is a {mode} with {share} % of the RPCs, step {step} of {}{paused}",
            steps.len()
        )
    }
}

fn side_text(name: &str, side: &Side) -> String {
    let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"));
    let (p50, p99, failed) = (ms(side.p50_ms), ms(side.p99_ms), 100.0 * side.failure_rate);
    let Side { rpcs, fallback, .. } = side;
    format!("{name}: {rpcs} RPCs, {failed:.2} % failed, p50 {p50}, p99 {p99}, {fallback} by the fallback")
}

fn policy_detail(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(policy) = app.model.policies.get(app.selected) else { return };
    let digest = policy.digest.as_deref().unwrap_or("none");
    let mut lines = vec![
        Line::styled(policy.name.as_str(), bold()),
        Line::from(format!("{}   version {}", state(policy), policy.generation.unwrap_or_default())),
        Line::from(format!("digest {digest}")),
        Line::from(format!(
            "{} picks, {} of them planned; {} by the fallback; {} faults",
            policy.picks, policy.planned_picks, policy.fallback_picks, policy.faults_total
        )),
        Line::from(format!("last fault: {}", policy.last_fault.as_deref().unwrap_or("none"))),
    ];
    let reason = if policy.rollout.is_some() { String::new() } else { why(policy) };
    if !reason.is_empty() {
        lines.push(Line::styled(format!("not active: {reason}"), Style::new().fg(Color::Red)));
    }
    if let Some(rollout) = &policy.rollout {
        lines.push(Line::from(rollout_text(rollout)));
        lines.push(Line::from(side_text("new   ", &rollout.candidate)));
        lines.push(Line::from(side_text("active", &rollout.active)));
        let verdict = rollout.verdict.as_ref().map_or("none yet", |verdict| verdict.text.as_str());
        lines.push(Line::from(format!("last verdict: {verdict}")));
    }
    let refusals = policy
        .refusals
        .iter()
        .map(|one| format!("refused by {} ({}): {}", one.target, one.stage, one.reason));
    lines.extend(refusals.map(Line::from));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}

fn events(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let lines = app.events().skip(app.selected).map(|event| {
        let ago = time(app.model.now.saturating_sub(event.t));
        let target = event.target.as_deref().map(|target| format!("{target}: ")).unwrap_or_default();
        Line::from(vec![
            Span::styled(format!("{ago:>8} ago  "), dim()),
            Span::styled(format!("{:<12}", event.kind), bold()),
            Span::raw(format!("{target}{}", event.text)),
        ])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).wrap(Wrap { trim: false }), area);
}

fn bar(share: f64) -> String {
    const WIDTH: usize = 10;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to WIDTH")]
    let filled = (share * WIDTH as f64).round().clamp(0.0, WIDTH as f64) as usize;
    format!("{}{} {:3.0} %", "█".repeat(filled), "·".repeat(WIDTH - filled), share * 100.0)
}

/// A number in at most six characters.
fn short(number: f64) -> String {
    match number {
        0.0 => "0".to_owned(),
        number if number < 9.95 => format!("{number:.1}"),
        number if number < 9_999.5 => format!("{number:.0}"),
        number if number < 999_950.0 => format!("{:.1}k", number / 1e3),
        number => format!("{:.1}M", number / 1e6),
    }
}

fn rate(number: f64, unit: &str) -> String {
    format!("{} {unit}", short(number))
}

fn millis(millis: Option<f64>) -> String {
    match millis {
        None => "-".to_owned(),
        Some(millis) if millis < 9.995 => format!("{millis:.2} ms"),
        Some(millis) if millis < 999.5 => format!("{millis:.0} ms"),
        Some(millis) => format!("{:.1} s", millis / 1e3),
    }
}

/// A time in milliseconds, for people.
fn time(millis: u64) -> String {
    match millis / 1000 {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min", seconds / 60),
        seconds @ ..86_400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::watch::model::{Model, Update};

    pub(in crate::watch) fn model() -> Model {
        let endpoint = |id: u32, zone: &str, state: &str| {
            json!({
                "id": id, "addresses": [format!("10.0.0.{}:1", id + 1)], "weight": 1, "attributes": {"zone": zone},
                "state": state, "since": 0, "last_error": (state != "READY").then_some("refused"), "connections": 1,
                "max_streams": null
            })
        };
        let model = json!({
            "version": "0.1.0", "now": 60_000, "not_ready": [],
            "channels": [{
                "id": 0, "target": "dns:///shop", "state": "READY", "policy": {"text": "color #2 abc"},
                "refused": {"stage": "start", "reason": "no such field"},
                "endpoints": [endpoint(0, "a", "READY"), endpoint(1, "b", "READY"), endpoint(2, "a", "TRANSIENT_FAILURE")]
            }],
            "policies": [{
                "name": "color", "state": "rejected", "generation": 2, "digest": "abc",
                "rejected": {"stage": "parse", "reason": "is not WebAssembly"}, "quarantined": null, "refusals": [],
                "last_fault": null, "picks": 100, "planned_picks": 50, "fallback_picks": 0
            }],
            "events": [{"t": 58_000, "kind": "swap", "target": "dns:///shop", "text": "policy color #2 replaces color #1"}]
        });
        serde_json::from_value(model).expect("a model")
    }

    pub(in crate::watch) fn tick() -> Update {
        let tick = json!({
            "now": 62_000, "not_ready": [],
            "channels": [{"id": 0, "started": 1234.5, "failed": 0.5, "in_flight": 7, "p50": 1.25, "p99": null,
                "endpoints": [[0, 2, 3, 400.0, 0.0, 1.5], [1, 2, 4, 800.0, 0.5, 2.5], [2, 3, 0, 0.0, 0.0, 0.0]]}],
            "policies": [{"name": "color", "picks": 300, "planned_picks": 150, "fallback_picks": 1, "faults": 2, "pick_ns": 310}]
        });
        Update::parse("tick", &tick.to_string()).expect("a tick")
    }

    fn screen(app: &App, width: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, 20)).expect("a terminal");
        terminal.draw(|frame| draw(frame, app)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn all_that_matters_is_on_the_screen() {
        let mut app = App::default();
        app.update(Update::Snapshot(Box::new(model())));
        app.update(tick());
        let text = screen(&app, 120);
        for part in [
            "dns:///shop READY  1234 RPC/s  0.5 errors/s  7 in flight  p50 1.25 ms  p99 -  policy color #2 abc",
            "a newer policy is refused (start): no such field",
            "10.0.0.2:1",
            "████",
            "67 %",
            "TRANSIENT_FAILURE",
            "1 min",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        app.tab = Tab::Policies;
        let text = screen(&app, 140);
        for part in ["rejected", "parse: is not WebAssembly", "100", "310 ns"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        app.tab = Tab::Events;
        assert!(
            screen(&app, 120).contains("4 s ago  swap        dns:///shop: policy color #2 replaces color #1")
        );
        (app.tab, app.is_detailed, app.selected) = (Tab::Endpoints, true, 2);
        assert!(screen(&app, 120).contains("last error: refused"));
    }

    #[test]
    fn a_narrow_terminal_shows_what_matters_most() {
        let mut app = App::default();
        app.update(Update::Snapshot(Box::new(model())));
        app.update(tick());
        app.model.channels[0].endpoints[0].addresses[0] = "255.255.255.255:65535".to_owned();
        for width in [60, 80, 100] {
            let text = screen(&app, width);
            for part in ["255.255.255.255:65535", "TRANSIENT_FAILURE", "errors/s"] {
                assert!(text.contains(part), "no {part:?} at {width} in\n{text}");
            }
        }
        for part in ["dns:///shop", "0.5 errors/s  7 in flight  p50 1.25 ms", "policy color #2 abc"] {
            for width in [60, 80] {
                assert!(screen(&app, width).contains(part), "no {part:?} in\n{}", screen(&app, width));
            }
        }
        app.tab = Tab::Policies;
        app.model.policies[0].name = "weighted_round_robin".to_owned();
        let text = screen(&app, 80);
        for part in ["weighted_round_robin", "rejected", "parse: is not"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn no_size_and_no_state_panics() {
        for tab in Tab::ALL {
            for is_detailed in [false, true] {
                for width in [1, 5, 30, 300] {
                    let mut app = App { tab, is_detailed, selected: 7, ..App::default() };
                    screen(&app, width);
                    app.model = model();
                    app.say("a note".to_owned());
                    screen(&app, width);
                }
            }
        }
    }
}
