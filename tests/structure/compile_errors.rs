//! Likely mistakes, and what the compiler says to them: each file in `compile_errors/` has its message beside it.
//!
//! Builds a crate of its own, which takes a minute, so it runs only where `COMPILE_ERRORS` or `CI` is set. Messages
//! differ from one version of the compiler to the next: `TRYBUILD=overwrite` writes them anew.

use std::env::var_os;

#[test]
fn mistakes_are_named_by_the_compiler() {
    if var_os("COMPILE_ERRORS").is_none() && var_os("CI").is_none() {
        println!("skipped: neither COMPILE_ERRORS nor CI is set");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/structure/compile_errors/*.rs");
}
