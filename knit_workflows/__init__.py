"""knit on Temporal. Import what you need from its modules: this one stays empty, so that the
programs inside pods start fast (`knit_workflows.plugin`, `.workflow`, `.client`, `.testing`).
"""
