"""Every primitive operation, its value and its gradients side by side, by family.

    elementwise   arithmetic, functions of one number, choices, comparisons
    shape         views, joins, splits, triangles, types
    indexing      x[...] and gather
    reduction     sums, means, extremes, softmax, running sums
    linalg        products of matrices

They are written once for both machines: NumPy's functions hand a CuPy array over to CuPy (its
protocols of NEP 13 and NEP 18), so `np.exp(x)` computes where x lives.
"""
