//! Price tables and the arithmetic on them.

use proptest::prelude::*;
use streaming_accumulator::Usage;

use crate::prices::Prices;

/// Input, of which cached and written, and output.
fn usage(input: u64, cached: Option<u64>, written: Option<u64>, output: u64) -> Usage {
    let mut usage = Usage::default();
    usage.input_tokens = Some(input);
    usage.cached_input_tokens = cached;
    usage.cache_write_input_tokens = written;
    usage.output_tokens = Some(output);
    usage
}

/// A table with one model, `m`.
fn model(keys: &str) -> Prices {
    Prices::parse(&format!("[models.m]\n{keys}")).expect("a valid table")
}

fn refusal(table: &str) -> String {
    Prices::parse(table).expect_err("not a valid table").to_string()
}

#[test]
fn each_kind_of_token_has_its_price() {
    let prices = model("input = '2.50'\ncached_input = '0.25'\ncache_write = '3.125'\noutput = '10'");
    let cost = |usage| prices.cost(Some("m"), &usage);
    assert_eq!(cost(usage(1_000_000, None, None, 0)), Some(2_500_000));
    assert_eq!(cost(usage(0, None, None, 1_000_000)), Some(10_000_000));
    // 600 plain, 300 cached, 100 written: 1500 + 75 + 312.5, and 200 for the output.
    assert_eq!(cost(usage(1000, Some(300), Some(100), 20)), Some(2088));
    assert_eq!(cost(usage(0, Some(0), Some(0), 0)), Some(0), "nothing costs nothing, and that is known");
}

#[test]
fn unpriced_input_parts_cost_what_input_does() {
    let prices = model("input = 2\noutput = 0");
    assert_eq!(prices.cost(Some("m"), &usage(1000, Some(300), Some(100), 5)), Some(2000));
}

#[test]
fn a_sum_is_rounded_once_and_half_up() {
    let prices = model("input = '0.25'\noutput = '0.25'");
    // A quarter each: rounded one by one, both would be nothing.
    assert_eq!(prices.cost(Some("m"), &usage(1, None, None, 1)), Some(1));
    assert_eq!(prices.cost(Some("m"), &usage(1, None, None, 0)), Some(0));
    assert_eq!(prices.cost(Some("m"), &usage(3, None, None, 2)), Some(1));
    assert_eq!(prices.cost(Some("m"), &usage(4, None, None, 2)), Some(2));
}

#[test]
fn parts_beyond_the_whole_are_billed_alone() {
    let prices = model("input = 1\ncached_input = 1\noutput = 0");
    assert_eq!(prices.cost(Some("m"), &usage(7, Some(161), None, 0)), Some(161));
}

#[test]
fn what_is_not_known_has_no_cost() {
    let prices = model("input = 1\noutput = 1");
    let known = usage(1, None, None, 1);
    assert_eq!(prices.cost(Some("m"), &known), Some(2));
    assert_eq!(prices.cost(Some("another"), &known), None);
    assert_eq!(prices.cost(None, &known), None);
    for forget in
        [|usage: &mut Usage| usage.output_tokens = None, |usage: &mut Usage| usage.input_tokens = None]
    {
        let mut half = known.clone();
        forget(&mut half);
        assert_eq!(prices.cost(Some("m"), &half), None);
    }
    assert_eq!(Prices::default().cost(Some("m"), &known), None);
}

#[test]
fn a_whole_name_goes_before_the_longest_beginning() {
    let table = ["gpt*", "gpt-4.1", "gpt-4.1-*", "gpt-4.1-mini*"].iter().zip(1..);
    let table = table.map(|(name, price)| format!("[models.\"{name}\"]\ninput = {price}\noutput = 0\n"));
    let prices = Prices::parse(&table.collect::<String>()).expect("a valid table");
    assert_eq!(prices.len(), 4);
    let cost = |model| prices.cost(Some(model), &usage(1, None, None, 0));
    assert_eq!(cost("gpt-3"), Some(1));
    assert_eq!(cost("gpt-4.1"), Some(2));
    assert_eq!(cost("gpt-4.1-2025-04-14"), Some(3));
    assert_eq!(cost("gpt-4.1-mini-2025-04-14"), Some(4));
    assert_eq!(cost("claude"), None);
}

#[test]
fn prices_are_taken_from_their_digits() {
    // No float is exactly any of these.
    for written in ["'0.000003'", "0.000003", "0.000_003", "'0.0000030'"] {
        let prices = model(&format!("input = {written}\noutput = 0"));
        assert_eq!(prices.cost(Some("m"), &usage(1_000_000, None, None, 0)), Some(3), "{written}");
    }
    let prices = model("input = 999999999999.999999\noutput = 0");
    assert_eq!(prices.cost(Some("m"), &usage(1_000_000, None, None, 0)), Some(999_999_999_999_999_999));
    let most = usage(u64::MAX, Some(u64::MAX), Some(u64::MAX), u64::MAX);
    assert_eq!(prices.cost(Some("m"), &most), Some(u64::MAX), "it does not overflow");
}

#[test]
fn invalid_price_is_refused_by_name() {
    let wrong = [
        "'-1'",
        "-1",
        "1e3",
        "'1.0000001'",
        "inf",
        "nan",
        "0x10",
        "'$1'",
        "''",
        "'.5'",
        "'5.'",
        "'1,5'",
        "true",
        "[1]",
        "'1234567890123'",
    ];
    for wrong in wrong {
        let refusal = refusal(&format!("[models.\"gpt-4.1\"]\ninput = 1\noutput = {wrong}"));
        assert!(refusal.starts_with("model \"gpt-4.1\": output: "), "{wrong}: {refusal}");
        assert!(refusal.contains("\"1.25\""), "the way out: {refusal}");
    }
}

#[test]
fn malformed_table_is_refused_with_advice() {
    assert!(refusal("[models.m]\noutput = 1").starts_with("model \"m\": no input: write input = \"1.25\""));
    assert!(refusal("[models.m]\ninput = 1").starts_with("model \"m\": no output"));
    let dot = refusal("[models.gpt-4.1]\ninput = 1\noutput = 1");
    assert!(dot.contains("\"gpt-4\"") && dot.contains("[models.\"gpt-4.1\"]"), "{dot}");
    assert!(refusal("[models.m]\ninput = 1\noutput = 1\ncached = 1").contains("unknown key \"cached\""));
    assert!(refusal("[models]").contains("no models"));
    assert!(refusal("").contains("models"));
    assert!(refusal("models = ").contains("line 1"));
}

#[test]
fn the_example_table_is_valid() {
    let table = include_str!("../../examples/gateway/prices.toml");
    let prices = Prices::parse(table).expect("a valid table");
    assert_eq!(prices.cost(Some("demo"), &usage(3, Some(0), None, 5)), Some(58));
}

proptest! {
    /// As long as no part is larger than the whole, the kinds add up to what each alone costs, but for the
    /// one rounding.
    #[test]
    fn a_cost_is_the_sum_of_its_parts(
        plain in 0..10_000_000_u64,
        cached in 0..10_000_000_u64,
        written in 0..10_000_000_u64,
        output in 0..10_000_000_u64,
        price in prop::array::uniform4(0..1_000_000_000_u64),
    ) {
        let keys = ["input", "cached_input", "cache_write", "output"];
        let decimal = |millionths: u64| format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000);
        let table: String = keys.iter().zip(price).map(|(key, price)| format!("{key} = {}\n", decimal(price))).collect();
        let sum: u64 = [plain, cached, written, output].iter().zip(price).map(|(tokens, price)| tokens * price).sum();
        let usage = usage(plain + cached + written, Some(cached), Some(written), output);
        let cost = model(&table).cost(Some("m"), &usage).expect("a cost");
        prop_assert!((cost * 1_000_000).abs_diff(sum) <= 500_000, "{cost} for {sum}");
    }
}
