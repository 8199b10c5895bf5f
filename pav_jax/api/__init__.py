"""Policies and verifiers that read and write text; arrays stay underneath.

    policy = pav_jax.load_policy("out/pav/sft/policy")
    verifier = pav_jax.load_verifier("out/pav/verifier/verifier")
    answers = policy.sample("7+5+13", n=8)
    verifier.score(answers[0]).show()
    pav_jax.beam_search(policy, verifier, "7+5+13", beams=4, alpha=0.5).show()

| file | what |
|---|---|
| `text_policy` | `load_policy`, `TextPolicy` |
| `text_verifier` | `load_verifier`, `TextVerifier` |
| `text_search` | `beam_search` |
| `answers` | `Answer`, `Scored`: what they give, and how that is shown |
| `beside` | what is saved beside a checkpoint, found again |
"""
