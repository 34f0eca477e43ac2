"""How any chart and table is drawn. Knows no experiment and no readout."""
