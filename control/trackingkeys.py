"""The verbs of ``python -m control tracking-keys``: another key takes the place of the one that signs links.

    python -m control tracking-keys show      # the keys and what they do
    python -m control tracking-keys add       # a new key that is believed and does not sign yet
    python -m control tracking-keys rotate    # the added key, or a new one, signs from now on; the others are believed
    python -m control tracking-keys forget    # older keys are believed no more: the links they signed are dead

Control and the bridges notice the changed file by themselves. With several machines: ``add``, copy the file to every
one, ``rotate``, copy it again. Let as long pass before ``forget`` as links are to work, 100 days for instance: people
unsubscribe from old mail, too.

Errors: ``OptionsError`` with a text for the operator.
"""

from mta.runtime import keyring
from mta.runtime.keyring import MAX_KEYS
from mta.runtime.options import Options, OptionsError

VERBS = {
    "show": "list the ids of the keys",
    "add": "add a key that signs after the next rotation and is believed from now on",
    "rotate": "sign with the added key, or a new one, from now on",
    "forget": "believe older keys no more",
}


def run(verb: str, loaded: Options) -> str:
    """Do what the verb says; what there is to tell. ``VERBS`` has them all."""
    path = loaded.path("secrets", "tracking.key")
    ring = keyring.read(path)
    match verb:
        case "add":
            keyring.write(path, ring.with_next())
            return f"{path} has a key for the next rotation; copy the file to every machine, then rotate"
        case "rotate":
            if len(ring.by_id) >= MAX_KEYS:
                raise OptionsError(f"{path} has {MAX_KEYS} keys, which is the most; forget the older ones first")
            keyring.write(path, ring.rotated())
            return f"a new key signs; copy {path} to every machine"
        case "forget":
            keyring.write(path, ring.without_older())
            return f"{len(ring.older)} keys forgotten; copy {path} to every machine"
        case _:
            states = [(ring.sealing, "signs"), *((key, "is believed") for key in ring.older)]
            if ring.next is not None:
                states.append((ring.next, "is believed, signs after the next rotation"))
            return "\n".join(f"{keyring.key_id(key).hex()}  {state}" for key, state in states)
