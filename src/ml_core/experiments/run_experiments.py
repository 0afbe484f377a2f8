"""`python -m ml_core.experiments.run_experiments`: another name of the command `run_experiments`."""

from luthier.faces.cli.run_experiments import main

if __name__ == "__main__":
    main()
