"""Who watches the tape: the trace, the drawing of a graph, the search for the first NaN."""
