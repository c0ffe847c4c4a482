"""The analyses of the EveNet paper, from files to tables, figures and a result; one module each.

The coffea processors they run stand in :mod:`evenet_hep.processors`; what is here trains, compares and measures with what
the processors collect. :mod:`~evenet_hep.analyses.folder` keeps results, :mod:`~evenet_hep.analyses.samples` finds and
reads the events, :mod:`~evenet_hep.analyses.stability` holds the pseudo-experiments of the systematic uncertainties.
"""
