"""All claims at once, and the page of those that are done.

In: the arguments of `o1jax reproduce --all` or `--page`. Out: a line for each claim as
it comes to its end, and the page.
"""

from argparse import Namespace

from o1jax.config import ConfigError


def reproduce_all_command(args: Namespace) -> None:
    """Runs every claim unless only the page is asked for, then writes the page."""
    if args.claim is not None:
        raise ConfigError("reproduce: --all and --page are for all claims: name none")
    failed = []
    if args.all:
        from o1jax.loop.reproduce.everything import reproduce_all
        from o1jax.loop.reproduce.registry import CLAIMS

        outcomes = reproduce_all(
            CLAIMS,
            args.tier,
            seeds=args.seeds,
            jobs=args.jobs or 1,
            results=args.results,
            cache=args.cache,
        )
        for outcome in outcomes:
            print(outcome.said, flush=True)
            failed += [] if outcome.ended_well else [outcome.claim]
    elif args.jobs:
        raise ConfigError("reproduce: --jobs needs --all")
    from o1jax.inspect.claims import write_index
    from o1jax.inspect.claims_page import write_page

    print(f"Page: {write_page(args.results)}, index: {write_index(args.results)}")
    if failed:
        raise ConfigError(
            f"reproduce: {', '.join(failed)} failed; run the same command again to go "
            "on with what is missing"
        )
