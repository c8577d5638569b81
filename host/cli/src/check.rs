//! `hotpick check`: what a policy is, what it may do, what it costs; or why it is none.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hotpick::picker::StartError;
use hotpick::policy::Report;
use hotpick::policy_dir::{self, PolicyDirOptions};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The files, with their settings (NAME.toml beside NAME.wasm) if there are any.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The configuration to start them with, instead of that of the settings.
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    /// Try each on so many endpoints.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    endpoints: u32,
    /// Print an array with an object for each file.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Endpoints need one, even those that are not there.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _within = runtime.enter();
    let checked: Vec<_> = arguments.files.iter().map(|file| (file, check(file, arguments))).collect();
    if arguments.json {
        let all: Vec<_> = checked.iter().map(|(file, result)| to_json(file, result)).collect();
        println!("{:#}", Value::Array(all));
    } else {
        for (file, result) in &checked {
            match result {
                Ok(report) => print!("{}", to_text(file, report)),
                Err(error) => eprintln!("hotpick: {}: {}: {error}", file.display(), error.stage()),
            }
        }
    }
    let failed = checked.iter().any(|(_, result)| result.is_err());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check(file: &Path, arguments: &Arguments) -> Result<Report, StartError> {
    let policy = policy_dir::load(file, &PolicyDirOptions::default())
        .map_err(|error| StartError::at(error.stage(), error.to_string()))?;
    policy.check(arguments.config.as_deref().unwrap_or("{}"), arguments.endpoints)
}

fn to_json(file: &Path, result: &Result<Report, StartError>) -> Value {
    match result {
        Err(error) => json!({
            "file": file.to_string_lossy(),
            "ok": false,
            "stage": error.stage().to_string(),
            "reason": error.to_string(),
        }),
        Ok(report) => {
            // What is JSON stays JSON.
            let schema = report.config_schema.as_ref();
            let schema = schema.map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
            json!({
                "file": file.to_string_lossy(),
                "ok": true,
                "digest": report.digest,
                "size": report.size,
                "imports": report.imports,
                "optional_parts": report.optional_parts,
                "ignored_exports": report.ignored_exports,
                "metadata": report.metadata,
                "affinity": report.affinity,
                "lazy": report.lazy,
                "summary": report.summary,
                "config_schema": schema,
                "memory": report.memory,
                "endpoints": report.endpoints,
                "told_ns": u64::try_from(report.told.as_nanos()).unwrap_or(u64::MAX),
                "pick_ns": u64::try_from(report.pick.as_nanos()).unwrap_or(u64::MAX),
            })
        }
    }
}

fn to_text(file: &Path, report: &Report) -> String {
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let mut lines = vec![format!("{}", file.display())];
    // What a policy says of itself must not talk to the terminal.
    let plain = |text: &str| text.replace(char::is_control, " ");
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<10} {}", plain(&value)));
    if let Some(summary) = &report.summary {
        line("summary", summary.clone());
    }
    line("file", format!("{} bytes, sha256 {}", report.size, report.digest));
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
        line("connects", "when it wants to".to_owned());
    }
    if let Some(schema) = &report.config_schema {
        line("schema", schema.clone());
    }
    line("memory", format!("{} KiB", report.memory / 1024));
    line("endpoints", format!("{}, told of them in {} us", report.endpoints, report.told.as_micros()));
    line("pick", format!("{} ns", report.pick.as_nanos()));
    lines.push(String::new());
    lines.join("\n")
}
