//! `hotpick check`: reports what a policy imports, may do and costs, or the stage and the reason why it is rejected.

mod schema;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use hotpick::directory;
use hotpick::policy::StartError;
use hotpick::policy::{Conformance, ConformanceOptions, Report, WasmPolicy};
use serde_json::{Value, json};

use self::text::{Look, shown};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Policy files. The settings beside a file (NAME.toml beside NAME.wasm) apply.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Configuration to start the policies with, instead of that in their settings.
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    /// Number of simulated endpoints.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    endpoints: u32,
    /// Test what any policy must do. Takes seconds for a policy in Rust, a minute for one in Python.
    #[arg(long)]
    conformance: bool,
    /// With --conformance: number of picks during which the policy's memory must not grow.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, requires = "conformance", value_parser = clap::value_parser!(u64).range(1_000..))]
    picks: u64,
    /// With --conformance: reference policy; each endpoint must get as many RPCs as with this one.
    #[arg(long, value_name = "FILE", requires = "conformance")]
    like: Option<PathBuf>,
    /// Print a JSON array with an object for each file.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Endpoints need a Tokio runtime, even simulated ones.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _within = runtime.enter();
    for file in &arguments.files {
        ensure!(
            !file.is_dir(),
            "{file:?} is a folder: name the policy's file, such as {:?}",
            file.join("dist/NAME.wasm")
        );
    }
    if arguments.conformance {
        return conformance(arguments);
    }
    let checked: Vec<_> = arguments.files.iter().map(|file| (file, check(file, arguments))).collect();
    if arguments.json {
        let all: Vec<_> = checked.iter().map(|(file, result)| to_json(file, result)).collect();
        say!("{:#}", Value::Array(all));
    } else {
        for (file, result) in &checked {
            match result {
                Ok(report) => crate::print::text(format_args!("{}", Look::of_stdout().report(file, report))),
                Err(error) => eprintln!("hotpick: {}: {}: {error}", shown(file), error.stage()),
            }
        }
    }
    let failed = checked.iter().any(|(_, result)| result.is_err());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn load(file: &Path) -> Result<WasmPolicy, StartError> {
    directory::load(file, &crate::cache::cached())
        .map_err(|error| StartError::at(error.stage(), error.to_string()))
}

fn conformance(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut options = ConformanceOptions::default();
    options.picks = arguments.picks;
    if let Some(config) = &arguments.config {
        options.config.clone_from(config);
    }
    if let Some(like) = &arguments.like {
        options.like = Some(load(like).with_context(|| format!("--like {}", like.display()))?);
    }
    let (mut conforms, mut all) = (true, Vec::new());
    for file in &arguments.files {
        let tried = load(file).map(|policy| policy.conformance(&options));
        conforms &= tried.as_ref().is_ok_and(|results| results.iter().all(|result| result.passed));
        match &tried {
            Err(error) if arguments.json => all.push(error_to_json(file, error)),
            Ok(results) if arguments.json => all.push(conformance_to_json(file, results)),
            Err(error) => eprintln!("hotpick: {}: {}: {error}", shown(file), error.stage()),
            Ok(results) => {
                crate::print::text(format_args!("{}", Look::of_stdout().conformance(file, results)));
            }
        }
    }
    if arguments.json {
        say!("{:#}", Value::Array(all));
    }
    Ok(if conforms { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn conformance_to_json(file: &Path, results: &[Conformance]) -> Value {
    let each =
        |result: &Conformance| json!({"name": result.name, "ok": result.passed, "text": result.detail});
    let ok = results.iter().all(|result| result.passed);
    let results: Vec<_> = results.iter().map(each).collect();
    json!({"file": file.to_string_lossy(), "ok": ok, "conformance": results})
}

fn check(file: &Path, arguments: &Arguments) -> Result<Report, StartError> {
    load(file)?.check(arguments.config.as_deref().unwrap_or("{}"), arguments.endpoints)
}

fn error_to_json(file: &Path, error: &StartError) -> Value {
    json!({
        "file": file.to_string_lossy(),
        "ok": false,
        "stage": error.stage().to_string(),
        "reason": error.to_string(),
    })
}

fn to_json(file: &Path, result: &Result<Report, StartError>) -> Value {
    match result {
        Err(error) => error_to_json(file, error),
        Ok(report) => {
            // A schema that is not valid JSON is reported as a string.
            let schema = report.config_schema.as_ref();
            let schema = schema.map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
            json!({
                "file": file.to_string_lossy(),
                "ok": true,
                "digest": report.digest,
                "size": report.size,
                "seal": report.seal,
                "enabled": report.enabled,
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
                "notification_ns": u64::try_from(report.notification.as_nanos()).unwrap_or(u64::MAX),
                "pick_ns": u64::try_from(report.pick.as_nanos()).unwrap_or(u64::MAX),
            })
        }
    }
}
