"""The orders of work that an orchestrator runs: thin, over the plain functions of ganpipe."""
