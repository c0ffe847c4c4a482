"""Studies with jets from files to figures: classify, generate, search for a resonance, reweight.

Each function takes files of ``evenet-hep jets simulate`` (or NanoAOD with PF candidates) and a folder. It leaves
``result.json`` and a figure there, beside the networks; the same call goes on where it was cut off.
"""
