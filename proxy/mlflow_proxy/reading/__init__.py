"""How a read is answered: a stack of readers, each of which asks the one below for what it cannot answer.

    Proven      May this caller have what callers share? Asks the workspace for a proof if nobody knows.
    Cached      Is an answer stored and fresh? If nobody can give a new one, may an expired one be used?
    Coalesced   Is the same question in the air? Then wait for its answer.
    Kept        Store the answer, unless a write has outdated it meanwhile.
    Shared      Has the fleet the answer, or is another member fetching it?
    Fetched     Ask the workspace, and decide for how long its answer may be used.

All have one method (``answer.Reader``), and ``stack.build`` puts one on the other. One that has to ask a
question of its own (``Proven`` a proof, ``Fetched`` the status of a version) asks the top of the stack.

What they know is in ``memory``: stored answers, proofs, refusals, statuses of versions. ``generations`` is
the one mechanism by which a write outdates what was asked before it.
"""
