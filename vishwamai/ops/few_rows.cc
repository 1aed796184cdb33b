// Few rows of activations times a matrix in float32, bfloat16, int8 or int4, for XLA's CPU platform.
//
// XLA widens a matrix in few bits as a whole, in memory, before it multiplies. Here a few inputs at a time are widened
// in registers, so that a product takes about as long as the matrix takes to arrive: it is read once, in its own order,
// each thread a run of inputs. int4 lies two to a byte, the even output low.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

#define INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
constexpr int64_t kAlignment = 32;         // outputs come in multiples of this
constexpr int64_t kMostSums = 8192;        // that a thread adds up at a time: they stay in a near cache
constexpr int64_t kLeastShared = 1 << 17;  // bytes of a matrix that are worth a second thread
constexpr int64_t kAhead = 16;             // inputs between what is read and what is fetched
constexpr int64_t kLine = 64;              // bytes that are fetched at once

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef int16_t Shorts __attribute__((vector_size(2 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));

template <typename Vector>
INLINE Vector Load(const void* from) {
  Vector found;
  std::memcpy(&found, from, sizeof(found));
  return found;
}

template <typename Vector>
INLINE void Store(void* to, Vector v) {
  std::memcpy(to, &v, sizeof(v));
}

INLINE Ints LoadBytes(const void* from) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
  return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(from)));
#else
  return __builtin_convertvector(__builtin_convertvector(Load<Bytes>(from), Shorts), Ints);
#endif
}

INLINE Ints LoadHalves(const void* from) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  return (Ints)_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(from)));
#else
  return __builtin_convertvector(Load<Halves>(from), Ints);
#endif
}

// Kinds of numbers: how many vectors of outputs come of how many bytes, and these vectors in the outputs' order.

struct Float32 {
  static constexpr int vectors = 1, bytes = 4 * kLanes;
  static INLINE void Widen(const uint8_t* from, Floats* to) { to[0] = Load<Floats>(from); }
  static INLINE void Order(Floats*) {}
};

struct BFloat16 {
  static constexpr int vectors = 1, bytes = 2 * kLanes;
  static INLINE void Widen(const uint8_t* from, Floats* to) { to[0] = (Floats)(LoadHalves(from) << 16); }
  static INLINE void Order(Floats*) {}
};

struct Int8 {
  static constexpr int vectors = 1, bytes = kLanes;
  static INLINE void Widen(const uint8_t* from, Floats* to) { to[0] = __builtin_convertvector(LoadBytes(from), Floats); }
  static INLINE void Order(Floats*) {}
};

struct Int4 {
  static constexpr int vectors = 2, bytes = kLanes;
  static INLINE void Widen(const uint8_t* from, Floats* to) {
    const Ints both = LoadBytes(from);
    to[0] = __builtin_convertvector(both << 28 >> 28, Floats);
    to[1] = __builtin_convertvector(both >> 4, Floats);
  }
  static INLINE void Order(Floats* v) {
    const Floats even = v[0], odd = v[1];
#if defined(__AVX512F__)
    v[0] = __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    v[1] = __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
    v[0] = __builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
    v[1] = __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
#endif
  }
};

struct Product {
  const float* x;        // [rows, inputs]
  const uint8_t* w;      // [inputs, outputs]
  const uint8_t* scale;  // [groups, outputs], or null
  const float* offset;   // [groups, outputs], or null
  int64_t rows, inputs, outputs, groups;
  ffi::DataType scale_type;
};

INLINE Floats LoadScale(const Product& p, int64_t index) {
  if (p.scale_type == ffi::F32) return Load<Floats>(p.scale + 4 * index);
  const Ints bits = LoadHalves(p.scale + 2 * index);
  if (p.scale_type == ffi::BF16) return (Floats)(bits << 16);
  // float16: its exponent's bias is 112 less, which a product puts right (of subnormal numbers too).
  return (Floats)((Ints)((Floats)((bits & 0x7fff) << 13) * 0x1p112f) | (bits & 0x8000) << 16);
}

// Adds what `count` inputs give to the sums of `rows` rows, `width` apart.
template <typename Kind, int rows, int count>
INLINE void AddInputs(const Product& p, const uint8_t* w, const float* x, int64_t width, float* sums) {
  constexpr int64_t step = kLanes * Kind::vectors;
  const int64_t input_bytes = p.outputs / step * Kind::bytes;
  for (int64_t f = 0; f < width; f += step, w += Kind::bytes) {
    if (f / step * Kind::bytes % kLine == 0) {
      for (int j = 0; j < count; ++j) __builtin_prefetch(w + (j + kAhead) * input_bytes);
    }
    Floats wide[count][Kind::vectors];
    for (int j = 0; j < count; ++j) Kind::Widen(w + j * input_bytes, wide[j]);
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < Kind::vectors; ++v) {
        float* at = sums + r * width + f + v * kLanes;
        Floats sum = Load<Floats>(at);
        for (int j = 0; j < count; ++j) sum += wide[j][v] * x[r * p.inputs + j];
        Store(at, sum);
      }
    }
  }
}

template <typename Kind, int count>
INLINE void AddInputs(const Product& p, int64_t input, int64_t output, int64_t width, float* sums) {
  const uint8_t* w = p.w + (input * p.outputs + output) / (kLanes * Kind::vectors) * Kind::bytes;
  int64_t r = 0;
  for (; r + 4 <= p.rows; r += 4) AddInputs<Kind, 4, count>(p, w, p.x + r * p.inputs + input, width, sums + r * width);
  for (; r < p.rows; ++r) AddInputs<Kind, 1, count>(p, w, p.x + r * p.inputs + input, width, sums + r * width);
}

// Adds the sums over inputs of one group, from `input` to `end`, to the outputs: scaled, and with the offsets' part.
template <typename Kind>
INLINE void AddScaled(const Product& p, int64_t input, int64_t end, int64_t output, int64_t width, const float* sums,
                      float* y) {
  const int64_t group = input / (p.inputs / p.groups);
  for (int64_t r = 0; r < p.rows; ++r) {
    const float* x = p.x + r * p.inputs;
    const float x_sum = p.offset ? std::accumulate(x + input, x + end, 0.0f) : 0.0f;
    for (int64_t f = 0; f < width; f += kLanes * Kind::vectors) {
      Floats sum[Kind::vectors];
      std::memcpy(sum, sums + r * width + f, sizeof(sum));
      Kind::Order(sum);
      for (int v = 0; v < Kind::vectors; ++v) {
        const int64_t index = group * p.outputs + output + f + v * kLanes;
        float* at = y + r * p.outputs + output + f + v * kLanes;
        if (p.scale) sum[v] *= LoadScale(p, index);
        if (p.offset) sum[v] += Load<Floats>(p.offset + index) * x_sum;
        Store(at, Load<Floats>(at) + sum[v]);
      }
    }
  }
}

// Adds to `width` outputs of every row what the inputs from `first` to `last` give.
template <typename Kind>
void Multiply(const Product& p, int64_t first, int64_t last, int64_t output, int64_t width, float* y) {
  const int64_t group = p.inputs / p.groups;
  alignas(kLine) float sums[kMostSums];
  for (int64_t begin = first, end; begin < last; begin = end) {
    end = std::min(last, (begin / group + 1) * group);
    std::fill_n(sums, p.rows * width, 0.0f);
    int64_t input = begin;
    for (; input + 8 <= end; input += 8) AddInputs<Kind, 8>(p, input, output, width, sums);
    for (; input < end; ++input) AddInputs<Kind, 1>(p, input, output, width, sums);
    AddScaled<Kind>(p, begin, end, output, width, sums, y);
  }
}

// The outputs from `first` to `last` of every row, of a matrix [outputs, inputs].
template <typename Kind, int rows>
INLINE void MultiplyTransposed(const Product& p, int64_t first, int64_t last, const float* x, float* y) {
  constexpr int count = 4;
  for (int64_t f = first; f < last; f += count) {
    Floats sums[rows][count] = {};
    for (int64_t d = 0; d < p.inputs; d += kLanes) {
      for (int j = 0; j < count; ++j) {
        const uint8_t* w = p.w + (std::min(f + j, last - 1) * p.inputs + d) / kLanes * Kind::bytes;
        __builtin_prefetch(w + count * p.inputs / kLanes * Kind::bytes);
        Floats wide;
        Kind::Widen(w, &wide);
        for (int r = 0; r < rows; ++r) sums[r][j] += wide * Load<Floats>(x + r * p.inputs + d);
      }
    }
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < count && f + j < last; ++j) {
        y[r * p.outputs + f + j] = 0;
        for (int i = 0; i < kLanes; ++i) y[r * p.outputs + f + j] += sums[r][j][i];
      }
    }
  }
}

// The same of every row, a few rows at a time.
template <typename Kind>
void MultiplyTransposed(const Product& p, int64_t first, int64_t last, float* y) {
  int64_t r = 0;
  for (; r + 4 <= p.rows; r += 4) MultiplyTransposed<Kind, 4>(p, first, last, p.x + r * p.inputs, y + r * p.outputs);
  for (; r < p.rows; ++r) MultiplyTransposed<Kind, 1>(p, first, last, p.x + r * p.inputs, y + r * p.outputs);
}

// Calls `work(i)` for each i below `n`. The caller takes its part and waits for no call that has not begun, so that it
// gets on where all threads of the pool are as busy as itself.
template <typename Work>
void Share(ffi::ThreadPool& pool, int64_t n, const Work& work) {
  struct Counts {
    std::atomic<int64_t> begun{0}, done{0};
  };
  const auto counts = std::make_shared<Counts>();
  const auto run = [counts, n, &work] {
    for (int64_t i; (i = counts->begun.fetch_add(1)) < n; counts->done.fetch_add(1)) work(i);
  };
  for (int64_t i = std::min<int64_t>(pool.num_threads(), n); i > 1; --i) pool.Schedule([run] { run(); });
  run();
  while (counts->done.load() < n) std::this_thread::yield();
}

ffi::Error MultiplyFewRows(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer w, ffi::AnyBuffer scale,
                           ffi::Buffer<ffi::F32> offset, ffi::ResultBuffer<ffi::F32> y, bool transposed) {
  Product p;
  p.rows = x.dimensions()[0];
  p.inputs = x.dimensions()[1];
  p.outputs = w.dimensions()[transposed ? 0 : 1];
  p.groups = std::max<int64_t>(scale.dimensions()[0], 1);
  p.x = x.typed_data();
  p.w = static_cast<const uint8_t*>(w.untyped_data());
  p.scale = scale.dimensions()[0] ? static_cast<const uint8_t*>(scale.untyped_data()) : nullptr;
  p.scale_type = scale.element_type();
  p.offset = offset.dimensions()[0] ? offset.typed_data() : nullptr;
  const ffi::DataType type = w.element_type();
  const auto multiply = type == ffi::F32    ? Multiply<Float32>
                        : type == ffi::BF16 ? Multiply<BFloat16>
                        : type == ffi::S8   ? Multiply<Int8>
                                            : Multiply<Int4>;
  const int64_t bits = type == ffi::F32 ? 32 : type == ffi::BF16 ? 16 : type == ffi::S8 ? 8 : 4;
  const int64_t bytes = p.inputs * p.outputs * bits / 8;

  const int64_t threads = std::max<int64_t>(pool.num_threads(), 1);
  if (transposed) {
    const int64_t run = std::max<int64_t>(p.outputs / (4 * threads) / kAlignment, 1) * kAlignment;
    Share(pool, (p.outputs + run - 1) / run, [&](int64_t i) {
      const int64_t first = i * run, last = std::min(p.outputs, first + run);
      (type == ffi::F32 ? MultiplyTransposed<Float32> : MultiplyTransposed<BFloat16>)(p, first, last, y->typed_data());
    });
    return ffi::Error::Success();
  }
  const int64_t width = std::min(p.outputs, kMostSums / p.rows / kAlignment * kAlignment);
  const int64_t widths = (p.outputs + width - 1) / width;
  const int64_t shares = bytes < kLeastShared ? 1 : 2 * threads;
  const int64_t run = ((p.inputs * widths + shares - 1) / shares + 7) / 8 * 8;
  const int64_t runs = (p.inputs + run - 1) / run, size = p.rows * p.outputs;
  std::vector<float> others((runs - 1) * size);
  std::fill_n(y->typed_data(), size, 0.0f);
  const auto outputs_of = [&](int64_t i) { return i ? others.data() + (i - 1) * size : y->typed_data(); };
  const auto work = [&](int64_t i) {
    const int64_t input = i / widths * run, output = i % widths * width;
    multiply(p, input, std::min(p.inputs, input + run), output, std::min(width, p.outputs - output), outputs_of(i / widths));
  };
  if (shares == 1) {
    for (int64_t i = 0; i < runs * widths; ++i) work(i);
  } else {
    Share(pool, runs * widths, work);
  }
  for (int64_t i = 1; i < runs; ++i) {
    std::transform(outputs_of(i), outputs_of(i) + size, y->typed_data(), y->typed_data(), std::plus<float>());
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(FewRows, MultiplyFewRows,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("transposed"));
