"""`cleangpt distill`: a teacher and a text -> a student in Hugging Face's form, or a shadow of a trunk."""

from cleangpt.cli.distill_options import DistillOptions
from cleangpt.cli.options import command


def run(options: DistillOptions) -> None:
    """The same command again goes on where it was killed."""
    # import torch and transformers late, so that --help is quick
    from cleangpt.cli.distilling import distil_shadow, distil_student

    if options.shadow:
        distil_shadow(options)
    else:
        distil_student(options)


distill = command(DistillOptions, run)
distill.__doc__ = run.__doc__
