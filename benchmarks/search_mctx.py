"""Tree search with mctx: its engine on a trivial network, and over the 1m policy.

mctx keeps one array a node and knows no pages, so over the policy a node holds its
tokens, and an expansion reads the window of prompt and path anew, in one forward pass
that computes the logits of the last position only.
"""

import worker  # isort: skip  (pins the process first)

import jax
import jax.numpy as jnp
import mctx
import searches
import sizes

TOKENS = sizes.SEARCHES["tokens"]
MUZERO = {"dirichlet_fraction": 0.0}


def overhead(rule: str, trees: int, simulations: int) -> worker.Run:
    """The engine alone."""

    def recurrent_fn(params, key, action, state):
        state, prior, value = searches.step(state, action)
        output = mctx.RecurrentFnOutput(
            reward=jnp.zeros_like(value),
            discount=jnp.full_like(value, searches.DISCOUNT),
            prior_logits=prior,
            value=value,
        )
        return output, state

    @jax.jit
    def search(key, roots):
        state, prior, value = roots
        root = mctx.RootFnOutput(prior_logits=prior, value=value, embedding=state)
        if rule == "puct":
            output = mctx.muzero_policy(
                (), key, root, recurrent_fn, simulations, **MUZERO
            )
        else:
            output = mctx.gumbel_muzero_policy((), key, root, recurrent_fn, simulations)
        return output.search_tree.summary().visit_counts

    return searches.overhead_run(search, trees, simulations)


def over_tokens() -> worker.Run:
    """PUCT over the likeliest tokens."""
    policy, params, prompts = searches.policy_and_prompts(TOKENS)
    B = TOKENS.trees

    def read(params, tokens: jax.Array, length: jax.Array) -> tuple:
        """(value, log-probs and ids of the children)."""
        output, _ = policy.start(params, tokens, length, capacity=TOKENS.window)
        logprob = jax.nn.log_softmax(output.logits)
        return output.value, *jax.lax.top_k(logprob, TOKENS.children)

    def recurrent_fn(params, key, action, state):
        tokens, length, children = state
        token = jnp.take_along_axis(children, action[:, None], axis=1)[:, 0]
        tokens = tokens.at[jnp.arange(B), length].set(token)
        value, prior, children = read(params, tokens, length + 1)
        output = mctx.RecurrentFnOutput(
            reward=jnp.zeros(B),
            discount=jnp.ones(B),
            prior_logits=prior,
            value=value,
        )
        return output, (tokens, length + 1, children)

    @jax.jit
    def search(params, key):
        params = policy.unstack(params)
        room = ((0, 0), (0, TOKENS.window - TOKENS.prompt))
        tokens = jnp.pad(prompts.tokens, room)
        value, prior, children = read(params, tokens, prompts.length)
        root = mctx.RootFnOutput(
            prior_logits=prior,
            value=value,
            embedding=(tokens, prompts.length, children),
        )
        output = mctx.muzero_policy(
            params,
            key,
            root,
            recurrent_fn,
            TOKENS.simulations,
            max_depth=TOKENS.depth,
            **MUZERO,
        )
        return output.search_tree.summary().visit_counts

    key = jax.random.key(0)
    run = lambda: jax.device_get(search(params, key))
    run.note = lambda: {"work": B * TOKENS.simulations}
    return run


def build(case: str) -> tuple[worker.Run, worker.Run]:
    """`search/overhead/RULE/TREES/SIMULATIONS` or `search/tokens/LEAVES`."""
    _, kind, *rest = case.split("/")
    if kind == "overhead":
        run = overhead(rest[0], int(rest[1]), int(rest[2]))
    else:
        run = over_tokens()
    return run, run


if __name__ == "__main__":
    worker.serve(build, worker.versions("o1jax", "jax", "mctx"))
