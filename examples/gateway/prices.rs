//! What tokens cost: a table of prices, and arithmetic in whole numbers only.
//!
//! Prices are read from their digits as they are written, never by way of a float, and kept in millionths of
//! the currency's unit per million tokens. A cost is rounded once, when all of it has been added up.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use streaming_accumulator::Usage;
use toml::{Spanned, Value};

/// A million: tokens that a price is for, and parts that a unit of the currency has here.
const MILLION: u64 = 1_000_000;

/// Digits after the point. A price with more of them is no whole number of millionths.
const DECIMALS: usize = 6;

/// Digits before the point: with so few, no sum of costs leaves 128 bits.
const DIGITS: usize = 12;

/// The prices of the models that have one.
#[derive(Debug, Default)]
pub(crate) struct Prices {
    exact: BTreeMap<String, Price>,
    /// Those whose name ends in `*`, without it; the longest first.
    prefixes: Vec<(String, Price)>,
}

/// Millionths per million tokens.
#[derive(Clone, Copy, Debug)]
struct Price {
    input: u64,
    cached_input: u64,
    cache_write: u64,
    output: u64,
}

/// Why a table is not valid: which model, which key, and what to write instead.
#[derive(Debug)]
pub(crate) struct BadPrices(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    models: BTreeMap<String, BTreeMap<String, Spanned<Value>>>,
}

// === impl Prices ===

impl Prices {
    /// Reads a TOML table `[models."NAME"]` for each model.
    ///
    /// # Errors
    ///
    /// Where it is not TOML of this form, has no model, or a price is missing or not exact.
    pub(crate) fn parse(text: &str) -> Result<Self, BadPrices> {
        let file: File = toml::from_str(text).map_err(|error| BadPrices(error.to_string()))?;
        if file.models.is_empty() {
            return Err(BadPrices("it has no models".into()));
        }
        let mut prices = Self::default();
        for (name, keys) in file.models {
            let price = Price::parse(&name, &keys, text)?;
            match name.strip_suffix('*') {
                Some(prefix) => prices.prefixes.push((prefix.to_owned(), price)),
                None => {
                    prices.exact.insert(name, price);
                }
            }
        }
        prices.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(prices)
    }

    /// How many models have a price, patterns counted as one each.
    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.prefixes.len()
    }

    /// What `usage` costs in millionths of the currency's unit, rounded half up.
    ///
    /// None, which is not zero, for a model without a price, and where input or output is not known: half a
    /// bill would look like a whole one. Counts that were reported before a cut and estimates are billed as
    /// they stand; the row says which they are.
    pub(crate) fn cost(&self, model: Option<&str>, usage: &Usage) -> Option<u64> {
        let price = self.find(model?)?;
        let (input, output) = (usage.input_tokens?, usage.output_tokens?);
        // Parts of the input; what is not reported was not used.
        let cached = usage.cached_input_tokens.unwrap_or(0);
        let written = usage.cache_write_input_tokens.unwrap_or(0);
        // Some providers report parts that are larger than the whole: the parts are billed, and nothing else.
        let plain = input.saturating_sub(cached).saturating_sub(written);
        let parts = [
            (plain, price.input),
            (cached, price.cached_input),
            (written, price.cache_write),
            (output, price.output),
        ];
        let sum: u128 = parts.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(*price)).sum();
        let rounded = (sum + u128::from(MILLION / 2)) / u128::from(MILLION);
        Some(u64::try_from(rounded).unwrap_or(u64::MAX))
    }

    /// The price of the model by its whole name, else by the longest pattern that it begins with.
    fn find(&self, model: &str) -> Option<Price> {
        let pattern = || self.prefixes.iter().find(|(prefix, _)| model.starts_with(&**prefix));
        self.exact.get(model).or_else(|| pattern().map(|(_, price)| price)).copied()
    }
}

// === impl Price ===

impl Price {
    fn parse(model: &str, keys: &BTreeMap<String, Spanned<Value>>, text: &str) -> Result<Self, BadPrices> {
        if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(BadPrices(format!(
                "model {model:?}: unknown key {key:?}: the keys are {}; a name with a dot stands in quotes, \
                 as in [models.\"gpt-4.1\"]",
                KEYS.join(", ")
            )));
        }
        let read = |key: &str| match keys.get(key) {
            None => Ok(None),
            Some(value) => {
                let parsed = millionths(value, text);
                parsed.map(Some).map_err(|what| BadPrices(format!("model {model:?}: {key}: {what}")))
            }
        };
        let required = |key: &str| {
            let missing = || BadPrices(format!("model {model:?}: no {key}: write {key} = \"1.25\""));
            read(key)?.ok_or_else(missing)
        };
        let input = required("input")?;
        Ok(Self {
            input,
            cached_input: read("cached_input")?.unwrap_or(input),
            cache_write: read("cache_write")?.unwrap_or(input),
            output: required("output")?,
        })
    }
}

const KEYS: [&str; 4] = ["input", "cached_input", "cache_write", "output"];

/// A price as it is written in the file `text`, in millionths.
fn millionths(value: &Spanned<Value>, text: &str) -> Result<u64, String> {
    let written = match value.get_ref() {
        Value::String(string) => string,
        // The digits themselves: by now the number is a float already, and perhaps another one.
        Value::Integer(_) | Value::Float(_) => text.get(value.span()).unwrap_or_default(),
        other => return Err(format!("expected a price such as \"1.25\", not a TOML {}", other.type_str())),
    };
    let digits = written.replace('_', "");
    decimal(&digits).ok_or_else(|| {
        format!(
            "{written:?} is not a price: write digits only, at most {DIGITS} before the point and {DECIMALS} \
             after it, such as \"1.25\" for 1.25 per million tokens"
        )
    })
}

/// The number of millionths that `text` is, if it is one.
fn decimal(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || whole.len() > DIGITS {
        return None;
    }
    let part = part.trim_end_matches('0');
    if part.len() > DECIMALS {
        return None;
    }
    let part: u64 = format!("{part:0<DECIMALS$}").parse().ok()?;
    Some(whole.parse::<u64>().ok()? * MILLION + part)
}

// === impl BadPrices ===

impl fmt::Display for BadPrices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
