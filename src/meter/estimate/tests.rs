use super::*;

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
    fn chars_per_token_stays_within_documented_error() {
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
