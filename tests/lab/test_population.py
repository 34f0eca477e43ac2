"""Rows pretrained together are those that were pretrained one by one."""

SWEEP = 'config.sweep = c.product(data__variant=["single", "multi2+permute"])'
