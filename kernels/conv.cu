// 3×3 convolution, stride 1, padding 1, of channels-last maps with a zero border.
//
// x [B, H+2, W+2, stored Cin], weight [Cout, Cin, 3, 3] float → y [B, H+2, W+2, stored Cout]. The input's gradient is the
// convolution of dy with the turned and transposed kernel, by the same product; it may leave out the last input channels.
// The weight's gradient sums x's windows times dy over the pixels. The products are those of include/conv.cuh, which says
// what blocks and threads own; a name's number is the output channels of a tile, or its window and center channels. norm_…
// kernels read x raw and apply the batch norm + ReLU before it themselves.
#include "conv.cuh"

// panel = the weights as the product reads them: one element a thread, in a grid-stride loop. Bytes an element:
// 4 + sizeof(T), scattered reads of a small array that stays in L2.
template <typename T> __device__ void conv_pack(const ConvPack &p) {
    T *panel = static_cast<T *>(p.panel);
    const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
    for (unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.len;
         i += stride) {
        const conv::PanelPlace at = conv::panel_place(p, i, 3, 3, 2 * VECTOR<T>);
        const unsigned in = p.backward ? at.output : at.input, out = p.backward ? at.input : at.output;
        const unsigned tap = 3 * at.line + at.tap;
        float weight = 0.0f;
        if (in < p.inputs && out < p.outputs) {
            weight = p.weight[static_cast<size_t>(out * p.inputs + in) * 9 + (p.backward ? 8 - tap : tap)];
        }
        panel[i] = from_float<T>(weight);
    }
}
KERNELS(256, conv_pack, ConvPack)

CONV_KERNELS(conv, 3)

// gradient [Cout, Cin, 3, 3] = sum of partials [splits, ky, kx, ci, co] over the splits. A block owns 32 neighbouring elements.
// Bytes: the partials once.
KERNEL(256, conv_weight_sum, ConvWeightSum) {
    const unsigned lane = threadIdx.x % 32, element = blockIdx.x * 32 + lane;
    const size_t len = static_cast<size_t>(9) * p.window_channels * p.center_channels;
    float sum;
    if (conv::sum_splits(p, element, len, sum)) {
        const unsigned out = element % p.center_channels, in = element / p.center_channels % p.window_channels;
        const unsigned tap = element / p.center_channels / p.window_channels;
        if (in < p.inputs && out < p.outputs) {
            p.gradient[static_cast<size_t>(out * p.inputs + in) * 9 + tap] = sum;
        }
    }
}
