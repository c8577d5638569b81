//! The report of simulations: one HTML file without scripts and without assets, and a CSV file of the same numbers.

use std::fmt::Write as _;

use super::measured::{Measured, SLICES, Slice};

/// A policy's name, and what was measured with it.
pub(super) type Result = (String, Measured);

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 84.0;
/// Colours of lines that people with any colour vision tell apart (Okabe and Ito, 2008).
const COLORS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"];
/// Servers that a heat map has a row for.
const MOST_ROWS: usize = 200;

/// Returns the numbers of each slice of the time.
pub(super) fn csv(results: &[Result], seconds: f64) -> String {
    let mut out = "policy,second,rpcs,errors,p50_ms,p99_ms,in_flight,regret_ms,moved\n".to_owned();
    for (name, measured) in results {
        for (i, slice) in measured.slices.iter().enumerate() {
            let second = seconds * i as f64 / SLICES as f64;
            let quantile =
                |quantile| slice.quantile(quantile).map(|ms| format!("{ms:.3}")).unwrap_or_default();
            let name = name.replace('"', "\"\"");
            let _ = writeln!(
                out,
                "\"{name}\",{second:.3},{},{},{},{},{},{},{}",
                slice.rpcs(),
                slice.errors,
                quantile(0.5),
                quantile(0.99),
                slice.in_flight(),
                slice.regret().map(|ms| format!("{ms:.3}")).unwrap_or_default(),
                slice.moved().map(|part| format!("{part:.4}")).unwrap_or_default(),
            );
        }
    }
    out
}

/// Returns the page.
pub(super) fn html(results: &[Result], scenario: &str, seconds: f64, table: &str) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>hotpick sim: {0}</title>\n\
         <style>body{{font:14px system-ui,sans-serif;margin:2em;max-width:68em}}pre{{overflow-x:auto;font-size:12px}}\
         svg{{display:block;max-width:100%}}text{{font-size:11px}}</style>\n<h1>{0}</h1>\n<pre>{1}</pre>\n",
        escaped(scenario),
        escaped(table)
    );
    let ms = |value: f64| format!("{value:.2} ms");
    let count = |value: f64| format!("{value:.0}");
    let percent = |value: f64| format!("{:.1} %", 100.0 * value);
    let plots: [(&str, &Value, &Label); 5] = [
        ("p50 over time", &|slice| slice.quantile(0.5), &ms),
        ("p99 over time", &|slice| slice.quantile(0.99), &ms),
        ("Regret over time", &Slice::regret, &ms),
        ("RPCs in flight", &|slice| Some(slice.in_flight() as f64), &count),
        ("Keys that moved", &Slice::moved, &percent),
    ];
    for (title, value, label) in plots {
        // No plot of what there is not: keys, for example.
        if results.iter().any(|(_, measured)| measured.slices.iter().any(|slice| value(slice).is_some())) {
            let _ = write!(page, "<h2>{title}</h2>\n{}", lines(results, value, label, seconds));
        }
    }
    for (name, measured) in results {
        let _ = write!(
            page,
            "<h2>Share of each server: {}</h2>\n{}",
            escaped(name),
            heat(measured, |slice| &slice.served)
        );
        let _ = write!(
            page,
            "<h2>Queue of each server: {}</h2>\n{}",
            escaped(name),
            heat(measured, |slice| &slice.waiting)
        );
    }
    page + "</html>\n"
}

/// A value of a part of the time.
type Value = dyn Fn(&Slice) -> Option<f64>;
/// The text of a value.
type Label = dyn Fn(f64) -> String;

/// Draws a value of each policy over time, on a logarithmic scale.
fn lines(results: &[Result], value: &Value, label: &Label, seconds: f64) -> String {
    let of = |measured: &Measured| -> Vec<_> { measured.slices.iter().map(value).collect() };
    let all: Vec<_> = results.iter().map(|(_, measured)| of(measured)).collect();
    let values = || all.iter().flatten().flatten().copied();
    let least = values().fold(f64::MAX, f64::min).clamp(0.001, 1e9);
    let most = values().fold(0.0, f64::max).max(least * 1.01);
    let y = |value: f64| {
        let part = libm::log(value.max(least) / least) / libm::log(most / least);
        HEIGHT - 20.0 - part * (HEIGHT - 40.0)
    };
    let x = |slice: usize| LEFT + (slice as f64 + 0.5) / SLICES as f64 * WIDTH;
    let bottom = HEIGHT + 18.0 * results.len() as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {} {bottom}\" role=\"img\">\n", LEFT + WIDTH + 24.0);
    for ms in [least, (least * most).sqrt(), most] {
        let at = y(ms);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT + WIDTH,
            LEFT - 4.0,
            at + 4.0,
            label(ms)
        );
    }
    for second in [0.0, seconds / 2.0, seconds] {
        let at = LEFT + second / seconds * WIDTH;
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{second:.1} s</text>",
            HEIGHT - 4.0
        );
    }
    for (i, ((name, _), values)) in results.iter().zip(&all).enumerate() {
        let color = COLORS[i % COLORS.len()];
        // A slice without an RPC ends the line.
        let mut path = String::new();
        let mut is_drawn = false;
        for (slice, value) in values.iter().enumerate() {
            if let Some(ms) = value {
                let command = if is_drawn { 'L' } else { 'M' };
                let _ = write!(path, "{command}{:.1} {:.1} ", x(slice), y(*ms));
            }
            is_drawn = value.is_some();
        }
        let below = HEIGHT + 14.0 + 18.0 * i as f64;
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <rect x=\"{LEFT}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"{below}\">{}</text>",
            below - 10.0,
            LEFT + 18.0,
            escaped(name)
        );
    }
    svg + "</svg>\n"
}

/// Draws a number of each server over time: the darker, the more; white is none.
fn heat(measured: &Measured, of: impl Fn(&Slice) -> &Vec<u32>) -> String {
    let servers = measured.served.len();
    let rows = servers.min(MOST_ROWS);
    let most = measured.slices.iter().flat_map(|slice| of(slice).iter().take(rows)).max();
    let most = most.copied().unwrap_or(0).max(1);
    let height = (400.0 / rows.max(1) as f64).clamp(2.0, 16.0);
    let width = WIDTH / SLICES as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {} {:.1}\" role=\"img\" shape-rendering=\"crispEdges\">\n",
        LEFT + WIDTH + 24.0,
        height * rows as f64 + 4.0
    );
    for row in 0..rows {
        let y = height * row as f64;
        if height >= 10.0 {
            let _ = write!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{row}</text>",
                LEFT - 4.0,
                y + height - 2.0
            );
        }
        for (i, slice) in measured.slices.iter().enumerate() {
            let number = of(slice).get(row).copied().unwrap_or_default();
            let share = f64::from(number) / f64::from(most);
            if share > 0.0 {
                let _ = write!(
                    svg,
                    "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"#0072b2\" fill-opacity=\"{share:.2}\"/>",
                    LEFT + width * i as f64
                );
            }
        }
        svg.push('\n');
    }
    if rows < servers {
        return format!("{svg}</svg>\n<p>The first {rows} of {servers} servers.</p>\n");
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_every_policy_and_no_markup_of_its_name() {
        let mut measured = Measured::new(3);
        for i in 0..100_u32 {
            measured.ended((f64::from(i) + 0.5) / 100.0, 1_000_000 * u64::from(i + 1), i != 50);
            measured.served((f64::from(i) + 0.5) / 100.0, 1);
        }
        let results = [("<b>\"a\"".to_owned(), measured)];
        let page = html(&results, "steady", 30.0, "a table");
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>"));
        assert_eq!(page.matches("<svg").count(), 5);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        // The RPC that failed has no latency, and parts both lines.
        let path = page.split("<path d=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a line");
        assert_eq!(path.matches('M').count(), 2, "{path}");
        let csv = csv(&results, 30.0);
        assert_eq!(csv.lines().count(), 1 + SLICES);
        assert!(csv.contains("\"<b>\"\"a\"\"\",15.000,1,1,,"), "{csv}");
        // A report of no servers and no RPCs is a page, too.
        assert!(html(&[("none".to_owned(), Measured::new(0))], "steady", 1.0, "").contains("</html>"));
    }
}
