"""Evidence of hardware, judged offline: claims by platform, compared with a policy, collateral from a capsule.

    appraisal = appraise(documents, policy.hardware, capsule, bound=bound, now=now)

`items` names the forms of evidence, `policy` the part of an appraisal policy that is about hardware, `platforms` leads
each platform's evidence through its package, `verdict` collects what was found, `ear` writes that for others to read.
"""

from attest.appraise.policy import Hardware
from attest.appraise.verdict import Appraisal, appraise

__all__ = ["Appraisal", "Hardware", "appraise"]
