/// types:
/* Four bytes: a number, a sum of signs, or 32 signs. */
typedef union {
  float f;
  int32_t i;
  uint32_t u;
} cell;

/// geometry:
/* A window over an image; for a dense product, a window of one pixel. A map is (height, width, channels), row by row; its signs
 * are words along the channels, bit c mod 32 of word c / 32, a set bit for -1. */
typedef struct {
  int height, width, channels;
  int rows, columns, out;
  int size_h, size_w, stride_h, stride_w, top, left, dilation_h, dilation_w;
  int pad_value, groups;
} geometry;

/// words_for:
static int words_for(int channels) { return (channels + 31) / 32; }

/// bits_of:
static int bits_of(uint32_t v) {
  v -= v >> 1 & 0x55555555u;
  v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0fu;
  return (int)((v * 0x01010101u & 0xffffffffu) >> 24);
}

/// mean:
/* The mean of n numbers, added up by halves; the numbers are changed. */
static float mean(cell *x, int n) {
  const float share = (float)(1.0 / (double)n);
  int left_over[32], left = 0, i;
  float total;
  while (n > 1) {
    if (n % 2 != 0) left_over[left++] = n - 1;
    n /= 2;
    for (i = 0; i < n; ++i) x[i].f = x[i].f + x[i + n].f;
  }
  total = x[0].f;
  for (i = 0; i < left; ++i) total = total + x[left_over[i]].f;
  return total * share;
}

/// load:
static void load(const float *image, int n, cell *y) {
  int i;
  for (i = 0; i < n; ++i) y[i].f = image[i];
}

/// load_bytes:
static void load_bytes(const unsigned char *image, int n, int channels, const float *table, cell *y) {
  int i;
  for (i = 0; i < n; ++i) y[i].f = table[image[i] * channels + i % channels];
}

/// pack: words_for
/* The signs of x, or of (x + shift) scale, or of shift where scale is 0. */
static void pack(const cell *x, int pixels, int channels, const float *scale, const float *shift, cell *y) {
  int p, c;
  for (p = 0; p < pixels; ++p, x += channels, y += words_for(channels)) {
    for (c = 0; c < words_for(channels); ++c) y[c].u = 0;
    for (c = 0; c < channels; ++c) {
      float number = x[c].f;
      if (scale != NULL) {
        number = number + shift[c];
        number = number * scale[c];
        if (scale[c] == 0) number = shift[c];
      }
      if (!(number > -FLT_MIN)) y[c / 32].u |= (uint32_t)1 << c % 32;
    }
  }
}

/// bit_sums: geometry words_for bits_of
/* Sums of products of signs at one pixel, for all filters. */
static void bit_sums(const geometry *g, const cell *x, const uint32_t *w, int row, int column, cell *sums) {
  const int each = g->channels / g->groups, words = words_for(each), of_group = g->out / g->groups;
  int i, j, k, f, group, terms = 0;
  for (f = 0; f < g->out; ++f) sums[f].i = 0;
  for (i = 0; i < g->size_h; ++i)
    for (j = 0; j < g->size_w; ++j, w += words * g->out) {
      const int y = row * g->stride_h - g->top + i * g->dilation_h, z = column * g->stride_w - g->left + j * g->dilation_w;
      const int inside = y >= 0 && y < g->height && z >= 0 && z < g->width;
      if (!inside && g->pad_value == 0) continue;
      terms += each;
      for (group = 0; group < g->groups; ++group)
        for (k = 0; k < words; ++k) {
          const int used = each - 32 * k < 32 ? each - 32 * k : 32, start = group * each + 32 * k;
          uint32_t seen = g->pad_value < 0 ? 0xffffffffu : 0;
          if (inside) {
            const cell *at = x + (y * g->width + z) * words_for(g->channels) + start / 32;
            seen = at[0].u >> start % 32;
            if (start % 32 + used > 32) seen |= at[1].u << (32 - start % 32);
          }
          if (used < 32) seen &= ((uint32_t)1 << used) - 1;
          for (f = group * of_group; f < (group + 1) * of_group; ++f) sums[f].i -= 2 * bits_of(seen ^ w[k * g->out + f]);
        }
    }
  for (f = 0; f < g->out; ++f) sums[f].i += terms;
}

/// bits_to_floats: bit_sums
static void bits_to_floats(const geometry *g, const cell *x, const uint32_t *w, const float *scale, const cell *k,
                           const float *bias, cell *y) {
  int row, column, f;
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column, y += g->out) {
      bit_sums(g, x, w, row, column, y);
      for (f = 0; f < g->out; ++f) {
        float number = (float)y[f].i;
        if (scale != NULL) number = number * scale[f];
        if (k != NULL) number = number * k[row * g->columns + column].f;
        if (bias != NULL) number = number + bias[f];
        y[f].f = number;
      }
    }
}

/// bits_to_signs: bit_sums
/* Signs of (sum < threshold) ^ flip. room: one number for each filter. */
static void bits_to_signs(const geometry *g, const cell *x, const uint32_t *w, const int32_t *thresholds, const uint32_t *flip,
                          cell *room, cell *y) {
  int row, column, f;
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column, y += words_for(g->out)) {
      bit_sums(g, x, w, row, column, room);
      for (f = 0; f < words_for(g->out); ++f) y[f].u = flip[f];
      for (f = 0; f < g->out; ++f) y[f / 32].u ^= (uint32_t)(room[f].i < thresholds[f]) << f % 32;
    }
}

/// affine: geometry words_for bits_of
/* Products of c s + d with a t + b, s and t being signs of inputs and weights: a (c p + d u) + b (c q + d n), from sums of products p,
 * of weights u, of inputs q, and of ones n. */
static void affine(const geometry *g, const cell *x, const uint32_t *weights, const float *a, const float *b,
                   const float *levels, const cell *scale_k, const float *bias, cell *to) {
  const int words = words_for(g->channels);
  int row, column, f, i, j, k;
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column, to += g->out)
      for (f = 0; f < g->out; ++f) {
        const uint32_t *w = weights + f;
        int p = 0, u = 0, q = 0, n = 0;
        float number, more;
        for (i = 0; i < g->size_h; ++i)
          for (j = 0; j < g->size_w; ++j, w += words * g->out) {
            const int y = row * g->stride_h - g->top + i * g->dilation_h, z = column * g->stride_w - g->left + j * g->dilation_w;
            const int inside = y >= 0 && y < g->height && z >= 0 && z < g->width;
            const int value = inside ? 1 : g->pad_value;
            if (value == 0) continue;
            n += value * g->channels, u += value * g->channels, p += g->channels, q += g->channels;
            for (k = 0; k < words; ++k) {
              const int used = g->channels - 32 * k < 32 ? g->channels - 32 * k : 32;
              const uint32_t all = used < 32 ? ((uint32_t)1 << used) - 1 : 0xffffffffu;
              const uint32_t seen = inside ? x[(y * g->width + z) * words + k].u : value < 0 ? all : 0;
              u -= value * 2 * bits_of(w[k * g->out]);
              p -= 2 * bits_of(seen ^ w[k * g->out]);
              q -= 2 * bits_of(seen);
            }
          }
        number = (float)p, more = (float)q;
        if (levels != NULL) {
          const float left = levels[0] * number, right = levels[1] * (float)u;
          const float low = levels[0] * more, high = levels[1] * (float)n;
          number = left + right, more = low + high;
        }
        if (a != NULL) number = number * a[f];
        if (b != NULL) {
          more = more * b[f];
          number = number + more;
        }
        if (scale_k != NULL) number = number * scale_k[row * g->columns + column].f;
        if (bias != NULL) number = number + bias[f];
        to[f].f = number;
      }
}

/// input_scale: geometry mean
/* K: the mean over every window of the mean of |x| over the channels. room: max(channels, taps) numbers. */
static void input_scale(const geometry *g, const cell *x, cell *magnitudes, cell *room, cell *y) {
  int p, c, row, column, i, j;
  for (p = 0; p < g->height * g->width; ++p) {
    for (c = 0; c < g->channels; ++c) room[c].u = x[p * g->channels + c].u & 0x7fffffffu;
    magnitudes[p].f = mean(room, g->channels);
  }
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column, ++y) {
      for (i = 0; i < g->size_h; ++i)
        for (j = 0; j < g->size_w; ++j) {
          const int a = row * g->stride_h - g->top + i * g->dilation_h, b = column * g->stride_w - g->left + j * g->dilation_w;
          const int inside = a >= 0 && a < g->height && b >= 0 && b < g->width;
          room[i * g->size_w + j].f = inside ? magnitudes[a * g->width + b].f : 0;
        }
      y->f = mean(room, g->size_h * g->size_w);
    }
}

/// fused:
/* a b + c, rounded once. The fmaf of a small machine's C library may round twice. */
static float fused(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return fmaf(a, b, c);
#else
  /* The product is exact in double. The sum is rounded to odd: a double that is not exact ends in a set bit. So it never looks
   * like a tie where it is none, and the rounding to float is that of the exact sum. */
  const double product = (double)a * b;
  double of_product, error;
  union {
    double d;
    uint64_t u;
  } sum;
  sum.d = product + c;
  of_product = sum.d - c;
  error = (product - of_product) + (c - (sum.d - of_product)); /* the exact sum is sum.d + error */
  if ((error > 0 || error < 0) && sum.u % 2 == 0) {
    if ((error > 0) == (sum.d > 0)) ++sum.u;
    else --sum.u;
  }
  return (float)sum.d;
#endif
}

/// floats: geometry fused
/* Real weights (size_h, size_w, channels of a group, out): products added one after the other, each with one rounding. */
static void floats(const geometry *g, const cell *x, const float *weights, const float *bias, cell *y) {
  const int each = g->channels / g->groups, of_group = g->out / g->groups;
  int row, column, i, j, group, c, f;
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column, y += g->out) {
      const float *w = weights;
      for (f = 0; f < g->out; ++f) y[f].f = 0;
      for (i = 0; i < g->size_h; ++i)
        for (j = 0; j < g->size_w; ++j, w += each * g->out) {
          const int a = row * g->stride_h - g->top + i * g->dilation_h, b = column * g->stride_w - g->left + j * g->dilation_w;
          const int inside = a >= 0 && a < g->height && b >= 0 && b < g->width;
          if (!inside && g->pad_value == 0) continue;
          for (group = 0; group < g->groups; ++group)
            for (c = 0; c < each; ++c) {
              const float seen = inside ? x[(a * g->width + b) * g->channels + group * each + c].f : (float)g->pad_value;
              for (f = group * of_group; f < (group + 1) * of_group; ++f) y[f].f = fused(seen, w[c * g->out + f], y[f].f);
            }
        }
      for (f = 0; bias != NULL && f < g->out; ++f) y[f].f = y[f].f + bias[f];
    }
}

/// signed_floats: geometry words_for
/* Products of real inputs with signs as weights. */
static void signed_floats(const geometry *g, const cell *x, const uint32_t *weights, const float *scale, const float *bias,
                          cell *y) {
  const int each = g->channels / g->groups, of_group = g->out / g->groups;
  int row, column, i, j, group, c, f;
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column, y += g->out) {
      const uint32_t *w = weights;
      for (f = 0; f < g->out; ++f) y[f].f = 0;
      for (i = 0; i < g->size_h; ++i)
        for (j = 0; j < g->size_w; ++j, w += words_for(each) * g->out) {
          const int a = row * g->stride_h - g->top + i * g->dilation_h, b = column * g->stride_w - g->left + j * g->dilation_w;
          const int inside = a >= 0 && a < g->height && b >= 0 && b < g->width;
          if (!inside && g->pad_value == 0) continue;
          for (group = 0; group < g->groups; ++group)
            for (c = 0; c < each; ++c) {
              const float seen = inside ? x[(a * g->width + b) * g->channels + group * each + c].f : (float)g->pad_value;
              for (f = group * of_group; f < (group + 1) * of_group; ++f)
                y[f].f = w[c / 32 * g->out + f] >> c % 32 & 1 ? y[f].f - seen : y[f].f + seen;
            }
        }
      for (f = 0; f < g->out; ++f) {
        if (scale != NULL) y[f].f = y[f].f * scale[f];
        if (bias != NULL) y[f].f = y[f].f + bias[f];
      }
    }
}

/// normalize:
static void normalize(const cell *x, int pixels, int channels, const float *scale, const float *shift, cell *y) {
  int p, c;
  for (p = 0; p < pixels; ++p, x += channels, y += channels)
    for (c = 0; c < channels; ++c) {
      const float sum = x[c].f + shift[c];
      y[c].f = scale[c] == 0 ? shift[c] : sum * scale[c];
    }
}

/// relu:
static void relu(const cell *x, int n, cell *y) {
  int i;
  for (i = 0; i < n; ++i) y[i].f = x[i].f < 0 ? 0 : x[i].f;
}

/// hard_tanh:
static void hard_tanh(const cell *x, int n, cell *y) {
  int i;
  for (i = 0; i < n; ++i) y[i].f = x[i].f < -1 ? -1 : x[i].f > 1 ? 1 : x[i].f;
}

/// slopes:
/* x where x > 0, else x times the slope of its channel; one slope for all where there is one. */
static void slopes(const cell *x, int n, const float *slope, int channels, cell *y) {
  int i;
  for (i = 0; i < n; ++i) {
    const float below = x[i].f * slope[i % channels];
    y[i].f = x[i].f > 0 ? x[i].f : below;
  }
}

/// add:
static void add(const cell *a, const cell *b, int n, cell *y) {
  int i;
  for (i = 0; i < n; ++i) y[i].f = a[i].f + b[i].f;
}

/// max_pool: geometry
static void max_pool(const geometry *g, const cell *x, cell *y) {
  int row, column, i, j, c;
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column, y += g->channels) {
      for (c = 0; c < g->channels; ++c) y[c].f = -FLT_MAX;
      for (i = 0; i < g->size_h; ++i)
        for (j = 0; j < g->size_w; ++j) {
          const int a = row * g->stride_h - g->top + i, b = column * g->stride_w - g->left + j;
          const cell *at;
          if (a < 0 || a >= g->height || b < 0 || b >= g->width) continue;
          at = x + (a * g->width + b) * g->channels;
          for (c = 0; c < g->channels; ++c)
            if (at[c].f > y[c].f) y[c].f = at[c].f;
        }
    }
}

/// pool_signs: geometry words_for
/* For each channel, the highest sign of every window if its bit is set in `highest`, else the lowest. */
static void pool_signs(const geometry *g, const cell *x, const uint32_t *highest, cell *y) {
  const int words = words_for(g->channels);
  int row, column, i, j, k;
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column, y += words) {
      for (k = 0; k < words; ++k) y[k].u = 0;
      for (i = 0; i < g->size_h; ++i)
        for (j = 0; j < g->size_w; ++j) {
          const int a = row * g->stride_h - g->top + i, b = column * g->stride_w - g->left + j;
          const cell *at;
          if (a < 0 || a >= g->height || b < 0 || b >= g->width) continue;
          at = x + (a * g->width + b) * words;
          for (k = 0; k < words; ++k) y[k].u |= at[k].u ^ highest[k];
        }
      for (k = 0; k < words; ++k) y[k].u ^= highest[k];
    }
}

/// flatten_signs: words_for
/* The signs of all pixels side by side. */
static void flatten_signs(const cell *x, int pixels, int channels, cell *y) {
  int p, c;
  for (c = 0; c < words_for(pixels * channels); ++c) y[c].u = 0;
  for (p = 0; p < pixels; ++p)
    for (c = 0; c < channels; ++c) {
      const int bit = p * channels + c;
      y[bit / 32].u |= (x[p * words_for(channels) + c / 32].u >> c % 32 & 1) << bit % 32;
    }
}

/// avg_pool: geometry mean
static void avg_pool(const geometry *g, const cell *x, cell *room, cell *y) {
  int row, column, i, j, c;
  for (row = 0; row < g->rows; ++row)
    for (column = 0; column < g->columns; ++column)
      for (c = 0; c < g->channels; ++c, ++y) {
        for (i = 0; i < g->size_h; ++i)
          for (j = 0; j < g->size_w; ++j) {
            const int a = row * g->stride_h - g->top + i * g->dilation_h, b = column * g->stride_w - g->left + j * g->dilation_w;
            const int inside = a >= 0 && a < g->height && b >= 0 && b < g->width;
            room[i * g->size_w + j].f = inside ? x[(a * g->width + b) * g->channels + c].f : 0;
          }
        y->f = mean(room, g->size_h * g->size_w);
      }
}

/// global_average: mean
static void global_average(const cell *x, int pixels, int channels, cell *room, cell *y) {
  int p, c;
  for (c = 0; c < channels; ++c) {
    for (p = 0; p < pixels; ++p) room[p].f = x[p * channels + c].f;
    y[c].f = mean(room, pixels);
  }
}

/// place:
/* Copies the channels of x into y, which has `all` channels, from channel `first` on. */
static void place(const cell *x, int pixels, int channels, int first, int all, cell *y) {
  int p, c;
  for (p = 0; p < pixels; ++p)
    for (c = 0; c < channels; ++c) y[p * all + first + c].f = x[p * channels + c].f;
}

/// clear:
static void clear(cell *y, int n) {
  int i;
  for (i = 0; i < n; ++i) y[i].f = 0;
}

