"""`cleangpt distill`: fits a student to a teacher on a text, or a shadow to a trunk."""

from cleangpt.cli.distill_options import DistillOptions
from cleangpt.cli.options import command


def run(options: DistillOptions) -> None:
    """If it is killed, run the same command again to resume."""
    # import torch and transformers late, so that --help is quick
    from cleangpt.cli.distilling import distil_shadow, distil_student

    if options.shadow:
        distil_shadow(options)
    else:
        distil_student(options)


distill = command(DistillOptions, run)
distill.__doc__ = run.__doc__
