// A range of rows and columns of a matrix, cut out (forward) or put into zeros (backward).
//
// part [rows, columns]; whole [.., width], of which part begins at (first_row, first_column). A thread keeps to one vector
// of 16 bytes of each row (one element where `vectors` is 0: the ranges are no multiples of a vector) and walks down the
// rows (columns.cuh). Bytes an element: 2·sizeof(T) forward; backward sizeof(T) for each element of the whole and of the
// part. No arithmetic: memory bound.
#include "columns.cuh"

template <typename T, int V> __device__ void cut(const SliceForward &p) {
    const Columns<V> columns(p.columns);
    columns.for_rows(p.rows, [&](unsigned long long row) {
        const unsigned long long from = (row + p.first_row) * p.width + p.first_column + columns.column;
        store(static_cast<T *>(p.part) + row * p.columns + columns.column, load<V>(static_cast<const T *>(p.whole) + from));
    });
}
template <typename T> __device__ void slice_forward(const SliceForward &p) {
    p.vectors != 0 ? cut<T, VECTOR<T>>(p) : cut<T, 1>(p);
}
KERNELS(256, slice_forward, SliceForward)

template <typename T, int V> __device__ void place(const SliceBackward &p) {
    const Columns<V> columns(p.width);
    const unsigned column = columns.column - p.first_column; // of the part; beyond its columns where outside
    columns.for_rows(p.whole_rows, [&](unsigned long long whole_row) {
        const unsigned long long row = whole_row - p.first_row;
        Pack<T, V> pack;
        if (row < p.rows && column < p.columns) {
            pack = load<V>(static_cast<const T *>(p.part) + row * p.columns + column);
        } else {
#pragma unroll
            for (int i = 0; i < V; ++i) {
                pack.v[i] = from_float<T>(0.0f);
            }
        }
        store(static_cast<T *>(p.whole) + whole_row * p.width + columns.column, pack);
    });
}
template <typename T> __device__ void slice_backward(const SliceBackward &p) {
    p.vectors != 0 ? place<T, VECTOR<T>>(p) : place<T, 1>(p);
}
KERNELS(256, slice_backward, SliceBackward)
