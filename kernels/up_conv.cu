// Transposed 4×4 convolution, stride 2, padding 1, of channels-last maps with a zero border.
//
// x [B, H+2, W+2, stored Cin], weight [Cin, Cout, 4, 4] float → y [B, 2H+2, 2W+2, stored Cout]. Output pixel
// (2y + py, 2x + px) sees 2×2 input pixels: each of the four phases is a 2×2 convolution of x. The input's gradient gathers
// 4×4 pixels of dy at stride 2; the weight's gradient sums dy's windows times x over the input pixels. The products are those of
// include/conv.cuh, which says what blocks and threads own; a name's number is the output channels of a tile, or its
// window and center channels. norm_… kernels read x raw and apply the batch norm + ReLU before it themselves.
#include "conv.cuh"

// panel = the weights as the product reads them: one element a thread, in a grid-stride loop. Bytes an element:
// 4 + sizeof(T), scattered reads of a small array that stays in L2.
template <typename T> __device__ void up_conv_pack(const ConvPack &p) {
    T *panel = static_cast<T *>(p.panel);
    const unsigned long long stride = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
    for (unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < p.len;
         i += stride) {
        const conv::PanelPlace at = conv::panel_place(p, i, p.backward ? 8 : 2, 2, 2 * VECTOR<T>);
        unsigned in = at.input, out = at.output, ky, kx;
        if (p.backward) { // a line is one output line and the left or right pixels of its pairs
            in = at.output;
            out = at.input;
            ky = at.line / 2;
            kx = 2 * at.tap + at.line % 2;
        } else { // a phase of 0 sees kernel lines 3 and 1, one of 1 lines 2 and 0
            ky = 3 - at.phase / 2 - 2 * at.line;
            kx = 3 - at.phase % 2 - 2 * at.tap;
        }
        float weight = 0.0f;
        if (in < p.inputs && out < p.outputs) {
            weight = p.weight[static_cast<size_t>(in * p.outputs + out) * 16 + 4 * ky + kx];
        }
        panel[i] = from_float<T>(weight);
    }
}
KERNELS(256, up_conv_pack, ConvPack)

CONV_KERNELS(up_conv, 2)

// gradient [Cin, Cout, 4, 4] = sum of partials [splits, ky, kx mod 2, kx / 2, co, ci] over the splits. A block owns 32
// neighbouring elements. Bytes: the partials once.
KERNEL(256, up_conv_weight_sum, ConvWeightSum) {
    const unsigned lane = threadIdx.x % 32, element = blockIdx.x * 32 + lane;
    const size_t len = static_cast<size_t>(16) * p.window_channels * p.center_channels;
    float sum;
    if (conv::sum_splits(p, element, len, sum)) {
        const unsigned in = element % p.center_channels, out = element / p.center_channels % p.window_channels;
        const unsigned tap = element / p.center_channels / p.window_channels; // of 16: ky, kx mod 2, kx / 2
        if (in < p.inputs && out < p.outputs) {
            const unsigned ky = tap / 4, kx = tap % 2 * 2 + tap / 2 % 2;
            p.gradient[static_cast<size_t>(in * p.outputs + out) * 16 + 4 * ky + kx] = sum;
        }
    }
}
