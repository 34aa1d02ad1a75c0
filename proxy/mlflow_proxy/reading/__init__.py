"""How a read is answered: a stack of readers, each of which asks the one below for what it cannot answer.

    Proven      May this caller have shared answers? Asks the workspace for a proof if none is known.
    Cached      Is a fresh answer stored? If the workspace cannot answer, may an expired one be served?
    Coalesced   Is the same question in flight? Then wait for its answer.
    Kept        Store the answer, unless a write has outdated it meanwhile.
    Shared      Does the fleet have the answer, or is another member fetching it?
    Fetched     Ask the workspace, and compute the freshness lifetime of its answer.

Each reader has the one method of ``answer.Reader``; ``stack.build`` stacks them. A reader with a question of
its own (``Proven``: a proof, ``Fetched``: the status of a version) asks the top of the stack.

Their state is in ``memory``: stored answers, proofs, refusals, statuses of versions. ``generations`` is the
one mechanism by which a write outdates answers to earlier questions.
"""
