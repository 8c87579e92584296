//! What the host of a request says about the response.

/// The provider behind a host, by OpenTelemetry's names, if the host leaves no doubt.
pub(crate) fn provider_of_host(host: &str) -> Option<&'static str> {
    const HOSTS: [(&str, &str); 18] = [
        ("api.openai.com", "openai"),
        (".openai.azure.com", "azure.ai.openai"),
        (".services.ai.azure.com", "azure.ai.inference"),
        (".models.ai.azure.com", "azure.ai.inference"),
        ("api.anthropic.com", "anthropic"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("api.cohere.com", "cohere"),
        ("api.cohere.ai", "cohere"),
        ("api.mistral.ai", "mistral_ai"),
        ("api.groq.com", "groq"),
        ("api.deepseek.com", "deepseek"),
        ("api.x.ai", "x_ai"),
        ("api.perplexity.ai", "perplexity"),
        ("api.moonshot.ai", "moonshot_ai"),
        ("api.moonshot.cn", "moonshot_ai"),
        (".ml.cloud.ibm.com", "ibm.watsonx.ai"),
    ];
    let is_bedrock = host.starts_with("bedrock-runtime.") && host.ends_with(".amazonaws.com");
    let known = HOSTS.into_iter().find(|(name, _)| match name.starts_with(['.', '-']) {
        true => host.ends_with(name),
        false => host == *name,
    });
    if is_bedrock { Some("aws.bedrock") } else { known.map(|(_, provider)| provider) }
}
