use std::time::Duration;

use super::*;
use crate::accumulator::MemoryBudget;
use crate::meter::report::{Incomplete, Protocol};
use crate::meter::{Meter, Metering, Reading, RequestFacts, TextPolicy};
use crate::meter::usage::{Usage, UsageBasis};

/// A token a character, and a thousand more for a model that is known.
struct OneEach;

impl Estimator for OneEach {
    fn tokens(&self, model: Option<&str>, text: &str) -> u64 {
        text.chars().count() as u64 + if model.is_some() { 1000 } else { 0 }
    }
}

struct Silent;

impl Meter for Silent {
    fn feed(&mut self, _bytes: &[u8], _reading: &mut Reading) {}
    fn finish(&mut self, _reading: &mut Reading) {}
    fn is_terminated(&self) -> Option<bool> {
        Some(false)
    }
}

fn found(policy: TextPolicy, write: impl FnOnce(&mut Reading)) -> Found {
    found_with(policy, None, write)
}

fn found_with(policy: TextPolicy, request: Option<RequestFacts>, write: impl FnOnce(&mut Reading)) -> Found {
    let mut reading = Reading::new(policy);
    write(&mut reading);
    let metering = Metering::new(Box::new(Silent), None, reading, &MemoryBudget::new(1 << 20));
    Found::new(Some(metering), request, Some(std::sync::Arc::new(OneEach)))
}

fn asked(model: Option<&str>, prompt: &str, prompt_len: u64) -> RequestFacts {
    RequestFacts { model: model.map(Into::into), stream: None, prompt: prompt.into(), prompt_len }
}

#[test]
fn output_is_what_all_choices_say() {
    let found = found(TextPolicy::Keep(100), |reading| {
        reading.text(0, "héllo");
        reading.text(1, "you");
        reading.text(0, "!");
    });
    assert_eq!(output(&found, &OneEach), Some(9));
}

#[test]
fn output_is_scaled_up_where_not_all_text_was_kept() {
    let found = found(TextPolicy::Keep(6), |reading| {
        reading.text(0, "four");
        reading.text(1, "and more, and more");
    });
    // Six of 22 characters are six tokens to one, and to the other 2 × 22/6, rounded up.
    assert_eq!(output(&found, &OneEach), Some(22));
    assert_eq!(output(&found, &CharsPerToken), Some(8));
}

#[test]
fn output_that_was_only_counted_is_a_token_for_four_characters() {
    let counted = found(TextPolicy::Count, |reading| reading.text(0, "nine char"));
    assert_eq!(output(&counted, &OneEach), Some(3));
    let none_fits = found(TextPolicy::Keep(1), |reading| reading.text(0, "é"));
    assert_eq!(output(&none_fits, &OneEach), Some(1));
}

#[test]
fn what_is_no_text_is_output_too() {
    let found = found(TextPolicy::Keep(100), |reading| {
        reading.reasoning("hm hm");
        reading.tool_call("{}");
        reading.hidden("no");
        reading.text(0, "yes");
    });
    assert_eq!(output(&found, &OneEach), Some(3 + 3));
}

#[test]
fn no_output_is_zero_only_where_the_stream_was_read() {
    let nothing = |write: fn(&mut Reading)| output(&found(TextPolicy::Keep(100), write), &OneEach);
    assert_eq!(nothing(|reading| reading.event(1)), Some(0));
    assert_eq!(nothing(|reading| reading.protocol(Protocol::OpenAiChat)), Some(0));
    assert_eq!(nothing(|_| {}), None, "what it was could not be told");
    let unread = nothing(|reading| {
        reading.event(1);
        reading.incomplete(Incomplete::Memory);
    });
    assert_eq!(unread, None);
}

#[test]
fn texts_that_were_not_looked_at_are_not_estimated() {
    let skipped = found(TextPolicy::Skip, |reading| {
        reading.event(1);
        reading.text(0, "text");
        reading.reasoning("more");
    });
    assert_eq!(output(&skipped, &OneEach), None);
    assert_eq!(output(&Found::new(None, Some(asked(None, "p", 1)), None), &OneEach), None);
}

#[test]
fn input_is_the_prompt() {
    let input_of = |request| input(&Found::new(None, request, None), &OneEach);
    assert_eq!(input_of(Some(asked(None, "prompt", 6))), Some(6));
    assert_eq!(input_of(Some(asked(None, "one\ntwo", 6))), Some(7), "what parts the pieces counts as read");
    assert_eq!(input_of(Some(asked(None, "prom", 11))), Some(11));
    assert_eq!(input_of(Some(asked(None, "", 11))), Some(3));
    assert_eq!(input_of(Some(asked(None, "", 0))), None);
    assert_eq!(input_of(None), None);
}

#[test]
fn the_model_is_the_responses_else_the_requests() {
    let body = || Some(asked(Some("body"), "p", 1));
    let path = |reading: &mut Reading| reading.request_model("path");
    let both = |reading: &mut Reading| {
        reading.request_model("path");
        reading.model("answer");
    };
    let policy = TextPolicy::Count;
    assert_eq!(found_with(policy, body(), both).model(), Some("answer"));
    assert_eq!(found_with(policy, body(), path).model(), Some("body"));
    assert_eq!(found_with(policy, Some(asked(None, "p", 1)), path).model(), Some("path"));
    assert_eq!(found_with(policy, None, |_| {}).model(), None);

    let found = found_with(TextPolicy::Keep(9), body(), |reading| reading.text(0, "x"));
    assert_eq!((input(&found, &OneEach), output(&found, &OneEach)), (Some(1001), Some(1001)));
    assert_eq!(found.model(), found.llm().model());
}

#[test]
fn estimates_fill_in_what_was_not_reported() {
    let found = found_with(TextPolicy::Keep(100), Some(asked(None, "prompt", 6)), |reading| {
        reading.set_now(Duration::from_secs(1));
        reading.text(0, "text");
        reading.usage(Usage { input_tokens: Some(2), ..Usage::default() }, "{}");
    });
    let usage = found.usage(false);
    let counts = (usage.input_tokens, usage.output_tokens, usage.total_tokens);
    assert_eq!((counts, usage.basis), ((Some(2), Some(4), Some(6)), UsageBasis::Estimated));
}

#[test]
fn huge_numbers_do_not_overflow() {
    struct Huge;
    impl Estimator for Huge {
        fn tokens(&self, _model: Option<&str>, _text: &str) -> u64 {
            u64::MAX
        }
    }
    let found = found_with(TextPolicy::Keep(1), Some(asked(None, "p", u64::MAX)), |reading| {
        reading.text(0, "xx");
        reading.text(1, "y");
        reading.reasoning("z");
    });
    assert_eq!((input(&found, &Huge), output(&found, &Huge)), (Some(u64::MAX), Some(u64::MAX)));
}

#[test]
fn characters_weigh_by_their_script() {
    let tokens = |text: &str| CharsPerToken.tokens(Some("gpt-4o"), text);
    assert_eq!(tokens(""), 0);
    assert_eq!(tokens("a"), 1);
    assert_eq!(tokens(&"a".repeat(400)), 100);
    assert_eq!(tokens(&"é".repeat(400)), 100);
    assert_eq!(tokens(&"я".repeat(300)), 100);
    assert_eq!(tokens(&"的".repeat(100)), 100);
    assert_eq!(tokens(&"ひカ한\u{ff0c}😀𠀀".repeat(10)), 60);
}

#[cfg(feature = "llm-estimate")]
mod with_vocabularies {
    use super::*;

    /// The same thought in several scripts, and what models are asked for besides.
    const TEXTS: [&str; 20] = [
        "The meter reads each event as it goes by and writes down what it finds, so that a stream which is cut can \
         still be billed for what the model has said until then.",
        "fn main() {\n    let total: u64 = values.iter().map(|value| value.len() as u64).sum();\n    \
         println!(\"{total} bytes in {} parts\", values.len());\n}\n",
        "{\"id\":\"chatcmpl-9xYz\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"finish_reason\":null}]}",
        "3.14159265358979323846264338327950288419716939937510582097494459",
        "Der Zähler liest jedes Ereignis, während es vorbeikommt, und schreibt auf, was er findet, damit ein \
         abgebrochener Strom trotzdem abgerechnet werden kann.",
        "Le compteur lit chaque événement au passage et note ce qu'il trouve, afin qu'un flux interrompu puisse \
         quand même être facturé pour ce qui a été dit.",
        "El contador lee cada evento a medida que pasa y anota lo que encuentra, para que un flujo interrumpido se \
         pueda facturar de todos modos.",
        "Licznik czyta każde zdarzenie w chwili, gdy przechodzi, i zapisuje, co znalazł, aby przerwany strumień \
         można było mimo to rozliczyć.",
        "Sayaç her olayı geçerken okur ve bulduğunu yazar; böylece yarıda kesilen bir akış da faturalandırılabilir.",
        "Bộ đếm đọc từng sự kiện khi nó đi qua và ghi lại những gì nó tìm thấy, để một luồng bị cắt vẫn có thể được \
         tính tiền.",
        "Счётчик читает каждое событие, пока оно проходит мимо, и записывает найденное, чтобы прерванный поток всё \
         равно можно было оплатить.",
        "Ο μετρητής διαβάζει κάθε γεγονός καθώς περνά και σημειώνει ό,τι βρίσκει, ώστε μια ροή που διακόπηκε να \
         μπορεί να χρεωθεί.",
        "يقرأ العداد كل حدث أثناء مروره ويدون ما يجده، حتى يمكن محاسبة التدفق المقطوع على ما قاله النموذج.",
        "המונה קורא כל אירוע כשהוא עובר ורושם את מה שהוא מוצא, כדי שאפשר יהיה לחייב גם על זרם שנקטע באמצע.",
        "मीटर हर घटना को गुजरते समय पढ़ता है और जो मिलता है उसे लिख लेता है, ताकि कटी हुई धारा का भी बिल बनाया जा सके।",
        "มิเตอร์อ่านแต่ละเหตุการณ์ขณะที่ผ่านไปและจดสิ่งที่พบ เพื่อให้สามารถเรียกเก็บเงินสำหรับสตรีมที่ถูกตัดได้",
        "计量器在每个事件经过时读取它，并记下所发现的内容，这样即使流被中断，也能按照模型到那时为止所说的内容计费。",
        "計量器在每個事件經過時讀取它，並記下所發現的內容，這樣即使串流被中斷，也能按照模型所說的內容計費。",
        "メーターは通り過ぎる各イベントを読み取り、見つけたものを書き留めるので、途中で切れたストリームでも、それまでに話した分を請求できます。",
        "미터는 지나가는 각 이벤트를 읽고 찾은 것을 기록하므로, 중간에 끊긴 스트림도 모델이 말한 만큼 청구할 수 있습니다.",
    ];

    #[test]
    fn characters_tell_tokens_from_a_third_too_low_to_a_half_too_high() {
        for text in TEXTS {
            let exact = bpe_openai::o200k_base().count(text) as f64;
            let about = CharsPerToken.tokens(None, text) as f64;
            let ratio = about / exact;
            assert!((2.0 / 3.0..=1.5).contains(&ratio), "{ratio:.2} of {exact} tokens: {text}");
        }
    }

    #[test]
    fn each_model_is_counted_by_its_own_vocabulary() {
        // A text of which the three make different numbers.
        let text = "Счётчик читает";
        let o200k = bpe_openai::o200k_base().count(text) as u64;
        let cl100k = bpe_openai::cl100k_base().count(text) as u64;
        let chars = CharsPerToken.tokens(None, text);
        assert!(o200k != cl100k && cl100k != chars && chars != o200k);
        let cases = [
            (o200k, &["gpt-4o-mini", "gpt-4.1", "gpt-5", "gpt-5-mini", "chatgpt-4o-latest", "o1"][..]),
            (o200k, &["o1-mini", "o3-pro", "o4-mini", "gpt-oss-120b"]),
            (o200k, &["openai/gpt-4o", "a/b/gpt-4o", "ft:gpt-4o:me::1"]),
            (cl100k, &["gpt-4", "gpt-4-turbo", "gpt-3.5-turbo", "gpt-35-turbo", "text-embedding-3-small"]),
            (chars, &["claude-sonnet-4", "gemini-2.5-pro", "", "/", "my-gpt-4o", "gpt-2"]),
        ];
        for (tokens, models) in cases {
            for model in models {
                assert_eq!(TokenEstimator::new().tokens(Some(model), text), tokens, "{model}");
            }
        }
        assert_eq!(TokenEstimator::new().tokens(None, text), chars);
    }
}
