//! What people read of a check: aligned, and with colours on a terminal.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

use hotpick::policy::{Conformance, Report};

use super::schema::{self, Field};

/// How the text is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    has_colors: bool,
    /// Columns of the terminal. Longer lines are broken between words.
    columns: usize,
}

#[derive(Clone, Copy)]
enum Color {
    Bold,
    Dim,
    Red,
    Green,
    Cyan,
}

impl Look {
    /// Returns the look for standard output: with colours if it is a terminal, unless `NO_COLOR` is set.
    pub(super) fn of_stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let columns = ratatui::crossterm::terminal::size().ok().filter(|_| is_terminal);
        Self {
            has_colors: is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            columns: columns.map_or(usize::MAX, |(columns, _)| usize::from(columns).max(60)),
        }
    }

    fn paint(self, color: Color, text: &str) -> String {
        let code = match color {
            Color::Bold => 1,
            Color::Dim => 2,
            Color::Red => 31,
            Color::Green => 32,
            Color::Cyan => 36,
        };
        if self.has_colors { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(super) fn conformance(self, file: &Path, results: &[Conformance]) -> String {
        let mut out = format!("{}\n", self.paint(Color::Bold, &shown(file)));
        for Conformance { name, passed, detail, .. } in results {
            let verdict = match passed {
                true => self.paint(Color::Green, "ok   "),
                false => self.paint(Color::Red, "FAILS"),
            };
            let _ = writeln!(out, "  {verdict} {name:<14} {}", plain(detail));
        }
        out
    }

    pub(super) fn report(self, file: &Path, report: &Report) -> String {
        let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
        let mut lines = vec![self.paint(Color::Bold, &shown(file))];
        let mut line = |name: &str, value: String| {
            lines.push(format!("  {} {}", self.paint(Color::Cyan, &format!("{name:<10}")), plain(&value)));
        };
        if let Some(summary) = &report.summary {
            line("summary", summary.clone());
        }
        line("file", format!("{} bytes, sha256 {}", report.size, report.digest));
        let seal = report.seal.as_ref().map(|seal| format!("contract {}, {}", seal.contract, seal.sdk));
        let none = "none: an incomplete copy cannot be detected; seal the file with hotpick build FILE";
        line("seal", seal.unwrap_or_else(|| none.to_owned()));
        if !report.enabled {
            line("settings", "enabled = false: no channel uses the policy".to_owned());
        }
        line("imports", list(&report.imports));
        line("metadata", list(&report.metadata));
        if let Some(affinity) = &report.affinity {
            line("affinity", affinity.clone());
        }
        line("parts", list(&report.optional_parts));
        if !report.ignored_exports.is_empty() {
            line("ignored", list(&report.ignored_exports));
        }
        if report.lazy {
            line("connects", "only when the policy requests it".to_owned());
        }
        line("memory", format!("{} KiB", report.memory / 1024));
        let notified = report.notification.as_micros();
        line("endpoints", format!("{}, notified in {notified} us", report.endpoints));
        line("pick", format!("{} ns", report.pick.as_nanos()));
        if let Some(schema) = &report.config_schema {
            match schema::fields(schema) {
                Some(fields) if fields.is_empty() => line("config", "no fields".to_owned()),
                Some(fields) => {
                    line("config", "these fields:".to_owned());
                    lines.extend(self.table(&fields));
                }
                None => line("config", schema.clone()),
            }
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Returns the fields of a configuration as the lines of a table.
    fn table(self, fields: &[Field]) -> Vec<String> {
        let width = |of: fn(&Field) -> &String, most: usize| {
            fields.iter().map(|field| of(field).chars().count()).max().unwrap_or_default().min(most)
        };
        let widths = [
            width(|field| &field.name, 40),
            width(|field| &field.kind, 40),
            width(|field| &field.default, 24),
        ];
        let indent = 4 + widths.iter().map(|width| width + 2).sum::<usize>();
        let mut lines = Vec::new();
        for Field { name, kind, default, description } in fields {
            let [name, kind, default] = [name, kind, default].map(|text| plain(text));
            // Padded before it is painted: escape sequences have no width.
            let cells = format!(
                "    {}  {kind:<1$}  {2}  ",
                self.paint(Color::Bold, &format!("{name:<0$}", widths[0])),
                widths[1],
                self.paint(Color::Dim, &format!("{default:<0$}", widths[2])),
            );
            let mut rest =
                wrapped(&plain(description), self.columns.saturating_sub(indent).max(24)).into_iter();
            lines.push(format!("{cells}{}", rest.next().unwrap_or_default()).trim_end().to_owned());
            lines.extend(rest.map(|line| format!("{:indent$}{line}", "")));
        }
        lines
    }
}

/// Breaks a text between words into lines of at most this many characters.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let length = lines.last().map_or(0, |line| line.chars().count());
        if length > 0 && length + 1 + word.chars().count() > columns {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines
}

pub(super) fn shown(file: &Path) -> String {
    plain(&file.to_string_lossy())
}

/// Replaces control characters: a policy's name and description must not send escape sequences to the terminal.
fn plain(text: &str) -> String {
    text.replace(hotpick_admin::is_unprintable, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_broken_between_words() {
        let field = |name: &str, description: &str| Field {
            name: name.to_owned(),
            kind: "text".to_owned(),
            default: "-".to_owned(),
            description: description.to_owned(),
        };
        let fields = [field("zone", "The zone of this client, or none."), field("a", "Words\u{1b}[31m.")];
        let look = Look { has_colors: false, columns: 48 };
        let expected = [
            "    zone  text  -  The zone of this client, or",
            "                   none.",
            "    a     text  -  Words [31m.",
        ];
        assert_eq!(look.table(&fields), expected);
        let look = Look { has_colors: true, columns: 48 };
        assert!(look.table(&fields)[0].starts_with("    \u{1b}[1mzone\u{1b}[0m  text"));
    }
}
