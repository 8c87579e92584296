//! The floors of the crate: a module imports only from its own folder and from folders below, and never in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The children of `src/`, the highest floor first. A child imports from floors below its own.
const FLOORS: &[&[&str]] = &[
    &["lib"],
    &["http"],
    &["delivery"],
    &["stream"],
    &["accumulator", "meter"],
    &["error", "id", "words", "contain"],
];

/// Folders that import nothing from outside of themselves, so that each could be a crate.
const SELF_CONTAINED: &[&str] = &["meter"];

/// A module's path below the crate: `["stream", "settle"]`; empty for `lib.rs`.
type Module = Vec<String>;

/// An import: from a module, to whatever the path names, as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: Module,
    to: Vec<String>,
}

/// The sources by their path below `src/`.
type Sources = BTreeMap<String, String>;

fn sources() -> Sources {
    fn read(folder: &Path, below: &str, sources: &mut Sources) {
        for entry in fs::read_dir(folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                read(&path, &format!("{below}{name}/"), sources);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("source is readable");
                sources.insert(format!("{below}{name}"), text);
            }
        }
    }
    let mut sources = Sources::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    sources
}

// --- reading

/// Blanks comments and the contents of literals, so that what is left is code.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut i = 0;
    while i < chars.len() {
        let is_word_before = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            ('r', '"' | '#') | ('b', 'r') if !is_word_before && raw_string(&chars, i).is_some() => {
                i = raw_string(&chars, i).unwrap_or(i + 1);
                code.push_str("\"\"");
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                code.push_str("\"\"");
            }
            // A character, not a lifetime.
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (char, _) => {
                code.push(char);
                i += 1;
            }
        }
    }
    code
}

/// Where the raw string ends that begins at `start`, if one does.
fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let rest: String = chars[start..].iter().take(32).collect();
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.chars().take_while(|char| *char == '#').count();
    if !after[hashes..].starts_with('"') {
        return None;
    }
    let open = start + (rest.len() - after.len()) + hashes + 1;
    let close: Vec<char> = format!("\"{}", "#".repeat(hashes)).chars().collect();
    let end = (open..chars.len()).find(|i| chars[*i..].starts_with(&close)).unwrap_or(chars.len());
    Some(end + close.len())
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Path,
    Other(char),
}

fn tokens(code: &str) -> Vec<Token> {
    let chars: Vec<char> = code.chars().collect();
    let mut tokens = Vec::new();
    let mut i = 0;
    while let Some(&char) = chars.get(i) {
        if char.is_alphanumeric() || char == '_' {
            let word: String = chars[i..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
            i += word.chars().count();
            tokens.push(Token::Word(word));
        } else if char == ':' && chars.get(i + 1) == Some(&':') {
            tokens.push(Token::Path);
            i += 2;
        } else {
            if !char.is_whitespace() {
                tokens.push(Token::Other(char));
            }
            i += 1;
        }
    }
    tokens
}

/// Leaves out what stands behind `#[cfg(test)]`, or any other `cfg` that only tests and models set.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let is = |i: usize, text: &str| match tokens.get(i) {
        Some(Token::Word(word)) => word == text,
        Some(Token::Other(char)) => text.len() == 1 && text.starts_with(*char),
        _ => false,
    };
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if !(is(i, "#") && is(i + 1, "[") && is(i + 2, "cfg")) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        let end = closing(tokens, i + 1, '[', ']');
        let attribute = &tokens[i..=end];
        let has = |text: &str| attribute.iter().any(|token| *token == Token::Word(text.into()));
        let is_test = (has("test") || has("accumulator_loom")) && !has("not");
        i = end + 1;
        if is_test {
            i = item_end(tokens, i);
        }
    }
    kept
}

/// The bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize, left: char, right: char) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        if *token == Token::Other(left) {
            depth += 1;
        } else if *token == Token::Other(right) {
            depth -= 1;
            if depth == 0 {
                return i;
            }
        }
    }
    tokens.len() - 1
}

/// Where the item ends that begins at `start`: behind its `;`, or its braces.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut i = start;
    let mut head = tokens[start..].iter().take_while(|token| !matches!(token, Token::Other('{' | ';')));
    let is_import = head.any(|token| *token == Token::Word("use".into()));
    while i < tokens.len() {
        match &tokens[i] {
            Token::Other('(') => i = closing(tokens, i, '(', ')'),
            Token::Other('[') => i = closing(tokens, i, '[', ']'),
            Token::Other('{') if is_import => i = closing(tokens, i, '{', '}'),
            Token::Other('{') => return closing(tokens, i, '{', '}') + 1,
            Token::Other(';' | ',') => return i + 1,
            _ => {}
        }
        i += 1;
    }
    i
}

/// The module of a source file.
fn module_of(file: &str) -> Module {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Files that are modules of tests: declared behind `#[cfg(test)]` or a model checker's `cfg`.
fn is_tests(file: &str) -> bool {
    let module = module_of(file);
    module.iter().any(|part| part == "tests" || part == "models")
}

/// All that the sources name with `crate::`, `super::` or `self::`, inline modules included.
fn imports(sources: &Sources) -> BTreeSet<Import> {
    let mut imports = BTreeSet::new();
    for (file, text) in sources.iter().filter(|(file, _)| !is_tests(file)) {
        let tokens = without_tests(&tokens(&blanked(text)));
        read_module(&tokens, &module_of(file), &module_of(file), &mut imports);
    }
    imports
}

/// Reads the code of the module `here`, which stands in the file of the module `file`.
fn read_module(tokens: &[Token], file: &Module, here: &Module, imports: &mut BTreeSet<Import>) {
    let mut i = 0;
    while i < tokens.len() {
        let inline = match &tokens[i..] {
            [Token::Word(keyword), Token::Word(name), Token::Other('{'), ..] if keyword == "mod" => {
                Some(name)
            }
            _ => None,
        };
        if let Some(name) = inline {
            let end = closing(tokens, i + 2, '{', '}');
            let inner = [here.as_slice(), std::slice::from_ref(name)].concat();
            read_module(&tokens[i + 3..end], file, &inner, imports);
            i = end + 1;
            continue;
        }
        let starts =
            matches!(&tokens[i], Token::Word(word) if ["crate", "super", "self"].contains(&word.as_str()));
        let follows_path = i > 0 && tokens[i - 1] == Token::Path;
        if starts && !follows_path && tokens.get(i + 1) == Some(&Token::Path) {
            let mut targets = Vec::new();
            i = read_path(tokens, i, here.clone(), &mut targets);
            imports.extend(targets.into_iter().map(|to| Import { from: file.clone(), to }));
        } else {
            i += 1;
        }
    }
}

/// Reads the path, or the group of paths, that begins at `i`, and returns where it ends.
fn read_path(tokens: &[Token], mut i: usize, mut base: Vec<String>, targets: &mut Vec<Vec<String>>) -> usize {
    loop {
        match tokens.get(i) {
            Some(Token::Word(word)) => match word.as_str() {
                "crate" => base.clear(),
                "super" => drop(base.pop()),
                "self" => {}
                name => base.push(name.to_owned()),
            },
            Some(Token::Other('{')) => {
                let end = closing(tokens, i, '{', '}');
                let mut inner = i + 1;
                while inner < end {
                    inner = read_path(tokens, inner, base.clone(), targets);
                    while inner < end && tokens[inner] != Token::Other(',') {
                        inner += 1;
                    }
                    inner += 1;
                }
                return end + 1;
            }
            Some(Token::Other('*')) => {}
            _ => {
                targets.push(base);
                return i;
            }
        }
        if tokens.get(i + 1) != Some(&Token::Path) {
            targets.push(base);
            return i + 1;
        }
        i += 2;
    }
}

// --- checking

/// What is wrong with the imports of these sources, a line for each fault.
fn faults(sources: &Sources) -> Vec<String> {
    let imports = imports(sources);
    let modules: BTreeSet<Module> = sources.keys().map(|file| module_of(file)).collect();
    let mut faults = BTreeSet::new();
    for module in modules.iter().filter(|module| module.len() == 1) {
        if floor(&module[0]).is_none() {
            faults.insert(format!("`{}` stands on no floor: add it to FLOORS", module[0]));
        }
    }
    for import in &imports {
        let Some(to) = target(&import.to, &modules) else { continue };
        let (from, to_top) = (top(&import.from), top(&to));
        // The face of the crate may name all.
        if from == to_top || from == "lib" {
            continue;
        }
        if SELF_CONTAINED.contains(&from) {
            faults.insert(format!("{} imports {}, but stands alone", shown(import), to_top));
        }
        match (floor(from), floor(to_top)) {
            (Some(from), Some(to)) if to < from => {
                faults.insert(format!("{} runs upward", shown(import)));
            }
            _ => {}
        }
    }
    for folder in folders(&modules) {
        if let Some(circle) = circle(&edges(&folder, &imports, &modules)) {
            let place = if folder.is_empty() { "src".into() } else { format!("src/{}", folder.join("/")) };
            faults.insert(format!("a circle in {place}: {}", circle.join(" -> ")));
        }
    }
    faults.into_iter().collect()
}

fn shown(import: &Import) -> String {
    let from = if import.from.is_empty() { "lib".into() } else { import.from.join("::") };
    format!("{from} -> {}", import.to.join("::"))
}

fn floor(child: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&child))
}

fn top(module: &[String]) -> &str {
    module.first().map_or("lib", String::as_str)
}

/// The module in which a path ends: its longest part that is one. `None` where it names nothing of ours.
fn target(path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let longest = (0..=path.len()).rev().find(|length| modules.contains(&path[..*length]))?;
    Some(path[..longest].to_vec())
}

fn folders(modules: &BTreeSet<Module>) -> BTreeSet<Module> {
    modules
        .iter()
        .filter(|module| !module.is_empty())
        .map(|module| module[..module.len() - 1].to_vec())
        .collect()
}

/// Which children of `folder` import which others. The folder's own `mod.rs` is its face, and no child.
fn edges(
    folder: &[String],
    imports: &BTreeSet<Import>,
    modules: &BTreeSet<Module>,
) -> BTreeMap<String, BTreeSet<String>> {
    let child = |module: &[String]| -> Option<String> {
        let below = module.strip_prefix(folder)?;
        below.first().cloned()
    };
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for import in imports {
        let to = target(&import.to, modules);
        let (Some(from), Some(to)) = (child(&import.from), to.and_then(|to| child(&to))) else { continue };
        if from != to {
            edges.entry(to.clone()).or_default();
            edges.entry(from).or_default().insert(to);
        }
    }
    edges
}

/// A circle, if there is one: its members in order, the first one again at the end.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left = edges.clone();
    loop {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, targets)| targets.iter().all(|target| !left.contains_key(target)))
            .map(|(child, _)| child.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|child| drop(left.remove(child)));
    }
    // Each that is left imports another that is left: following them comes back.
    let mut walk = vec![left.keys().next()?.clone()];
    loop {
        let here = walk.last()?;
        let next = left[here].iter().find(|target| left.contains_key(*target))?.clone();
        if let Some(start) = walk.iter().position(|child| *child == next) {
            walk.push(next);
            return Some(walk.split_off(start));
        }
        walk.push(next);
    }
}

// --- the crate

#[test]
fn imports_run_downward_without_circles() {
    let sources = sources();
    assert!(sources.len() > 100 && sources.contains_key("stream/settle.rs"), "the sources were found");
    let imports = imports(&sources);
    assert!(imports.len() > 500, "{} imports were found", imports.len());
    let faults = faults(&sources);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

// --- the check itself

fn planted(files: &[(&str, &str)]) -> Vec<String> {
    let mut sources = Sources::from([
        ("lib.rs".to_owned(), "mod http; mod stream; pub use self::stream::State;".to_owned()),
        ("http/mod.rs".to_owned(), "mod body; pub use self::body::Body;".to_owned()),
        ("http/body.rs".to_owned(), "use crate::stream::state::State;".to_owned()),
        ("stream/mod.rs".to_owned(), "mod state; mod settle; pub use self::state::State;".to_owned()),
        ("stream/state.rs".to_owned(), "use super::settle::Settle;".to_owned()),
        ("stream/settle.rs".to_owned(), String::new()),
        ("meter/mod.rs".to_owned(), "mod set; pub use set::Set;".to_owned()),
        ("meter/set.rs".to_owned(), String::new()),
        ("error.rs".to_owned(), String::new()),
    ]);
    for (file, text) in files {
        sources.insert((*file).to_owned(), (*text).to_owned());
    }
    faults(&sources)
}

#[test]
fn downward_imports_are_no_fault() {
    assert!(planted(&[]).is_empty(), "{:?}", planted(&[]));
}

#[test]
fn upward_import_by_crate_is_found() {
    for text in [
        "use crate::http::body::Body;",
        "use std::fmt;\npub(crate) use crate::{error::Error, http::Body};",
        "fn f() -> crate::http::body::Body { todo!() }",
        "mod inner { use crate::http::Body; }",
    ] {
        let faults = planted(&[("stream/settle.rs", text)]);
        assert!(faults.iter().any(|fault| fault.contains("settle -> http")), "{text}: {faults:?}");
    }
}

#[test]
fn upward_import_by_super_is_found() {
    for text in [
        "use super::super::http::Body;",
        "fn f(body: super::super::http::body::Body) {}",
        "mod inner { use super::super::super::http::Body; }",
        "use super::{super::http::{self, Body as Other}, state as _};",
    ] {
        let faults = planted(&[("stream/settle.rs", text), ("stream/state.rs", "")]);
        assert!(faults.iter().any(|fault| fault.contains("settle -> http")), "{text}: {faults:?}");
    }
}

#[test]
fn circle_within_a_folder_is_found() {
    let faults = planted(&[("stream/settle.rs", "fn f(state: &super::state::State) {}")]);
    assert_eq!(faults, ["a circle in src/stream: settle -> state -> settle"]);
    let faults = planted(&[("http/body.rs", "use self::deep::D;"), ("http/body/deep.rs", "use super::E;")]);
    assert!(faults.is_empty(), "a folder and its face are one: {faults:?}");
    let faults = planted(&[
        ("http/deep/mod.rs", "mod a; mod b;"),
        ("http/deep/a.rs", "use super::b::B;"),
        ("http/deep/b.rs", "use crate::http::deep::a::A;"),
    ]);
    assert_eq!(faults, ["a circle in src/http/deep: a -> b -> a"]);
}

#[test]
fn circle_between_top_modules_is_found() {
    let faults = planted(&[("error.rs", "use crate::id::Id;"), ("id.rs", "use crate::error::Error;")]);
    assert!(faults.iter().any(|fault| fault.contains("a circle in src: error -> id -> error")), "{faults:?}");
}

#[test]
fn import_out_of_the_meter_is_found() {
    let faults = planted(&[("meter/set.rs", "use crate::error::BoxError;")]);
    assert!(faults.len() == 1 && faults[0].contains("stands alone"), "{faults:?}");
}

#[test]
fn comments_literals_and_tests_are_no_imports() {
    let text = r##"
        //! See [`crate::http`].
        /* use crate::http::Body; /* nested */ */
        const TEXT: &str = "use crate::http::Body; \" crate::http";
        const RAW: &str = r#"crate::http::Body " "#;
        const CHARS: [char; 2] = ['"', '\''];
        #[cfg(test)]
        use crate::http::Body;
        #[cfg(test)]
        mod tests { use crate::http::{Body}; fn f() { crate::http::g(); } }
        #[cfg(all(test, feature = "x"))]
        fn only_in_tests() { crate::http::g() }
    "##;
    let faults = planted(&[("stream/settle.rs", text), ("stream/tests.rs", "use crate::http::Body;")]);
    assert!(faults.is_empty(), "{faults:?}");
    let faults = planted(&[("stream/settle.rs", &format!("{text}\nuse crate::http::Body;"))]);
    assert!(!faults.is_empty(), "what follows is read");
}

#[test]
fn module_without_a_floor_is_found() {
    let faults = planted(&[("strange.rs", "")]);
    assert_eq!(faults, ["`strange` stands on no floor: add it to FLOORS"]);
}
