//! The floors of the crate: a module imports only from floors below its own, and never in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor, the lowest first. Within a floor, edges must not form a circle.
const FLOORS: &[&[&str]] = &[
    &["error", "outcome", "id", "stop", "budget", "limits", "usage", "llm"],
    &["accumulator", "backpressure", "ending", "metrics", "meter", "retry", "telemetry"],
    &["watch", "metered", "pipeline", "tap", "findings", "record"],
    &["hook", "dispatch"],
    &[
        "guard",
        "gate",
        "body",
        "admission",
        "request_body",
        "future",
        "service",
        "layer",
        "builder",
        "handle",
        "stream_pipeline",
    ],
    &["lib"],
];

fn source_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Module -> the modules that its code (docs and tests left out) names with `crate::`.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&src, &mut files);
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&src).expect("below src").with_extension("");
        let module = path.iter().next().expect("a file name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("source is readable");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let targets = edges.entry(module.clone()).or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for rest in line.split("crate::").skip(1) {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if name != module {
                    targets.insert(name);
                }
            }
        }
    }
    edges
}

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|floor| floor.contains(&module))
        .unwrap_or_else(|| panic!("module `{module}` stands on no floor: add it to FLOORS"))
}

#[test]
fn no_import_runs_upward() {
    let edges = edges();
    assert!(edges.len() > 15, "the sources were found");
    for (module, targets) in &edges {
        for target in targets {
            assert!(
                floor(target) <= floor(module),
                "`{module}` (floor {}) imports `{target}` (floor {})",
                floor(module),
                floor(target)
            );
        }
    }
}

#[test]
fn no_imports_form_a_circle() {
    let mut edges = edges();
    edges.remove("lib");
    // Takes away modules that import nothing that is left, until none does.
    while !edges.is_empty() {
        let free: Vec<String> = edges
            .iter()
            .filter(|(_, targets)| targets.iter().all(|target| !edges.contains_key(target)))
            .map(|(module, _)| module.clone())
            .collect();
        assert!(!free.is_empty(), "a circle among {:?}", edges.keys().collect::<Vec<_>>());
        for module in free {
            edges.remove(&module);
        }
    }
}
