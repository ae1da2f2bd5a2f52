"""IFEval's 25 instruction checks (Zhou et al. 2023, https://arxiv.org/abs/2311.07911), without downloads or chance."""
