// Reads lines of chat rows as most files have them, and stops at the first line that is anything else. scanner.py calls this;
// plain_chats.py says what such a row is, and does the same in Python.
//
// Every byte comes from a stranger: nothing is read beyond `end`, and nothing is written beyond what was read, because no row
// grows on its way (an escape becomes itself, or what is shorter).

#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint64_t u64;
typedef int64_t i64;

enum { SUSPECT = 1, LONG = 2, OPEN = 4 };  // what is said of a row; scanner.py reads it
enum { WORD = 1, MARKED = 2, NUMBER = 4, DIGIT = 8, LOCAL = 16, DOMAIN = 32, END = 64 };  // what a byte is
enum { MOST_MESSAGES = 31, HASH = 12, RECORD = 42, PAD = 32 };

typedef struct {
    const u8 *data;
    i64 size;
    u8 *rows;  // as they are stored; `PAD` bytes more than `size`
    u8 *hashes;
    u64 *lines, *sizes, *characters;
    u8 *shapes, *flags;
    i64 room;  // rows that the arrays hold
    const u64 *known;  // shapes of conversations that need no remark
    i64 known_count;
    const u8 *kinds;  // of each byte
    i64 long_answer, longest_line, least_word, least_digits;
    i64 at;  // from here on: where it stands
    u64 line;
    i64 count, written;
    u64 strange;  // the shape of the line that it stopped at, if it is not known
} Scan;

typedef struct {
    const u8 *in, *end;
    u8 *out;
} Cursor;

// ---- JSON ---------------------------------------------------------------------------------------------------------------

static inline void skip(Cursor *c) {
    while (c->in < c->end && (*c->in == ' ' || *c->in == '\t' || *c->in == '\r')) c->in++;
}

// One token, with blanks around it; written without them.
static inline int token(Cursor *c, const char *text, i64 length) {
    skip(c);
    if (c->end - c->in < length || memcmp(c->in, text, length)) return 0;
    memcpy(c->out, text, length);
    c->in += length;
    c->out += length;
    skip(c);
    return 1;
}
#define TOKEN(c, text) token(c, text, sizeof(text) - 1)

static inline int continues(u8 byte) { return (byte & 0xC0) == 0x80; }

// Bytes of one character beyond ASCII; 0 where it is not UTF-8.
static int wide(const u8 *p, i64 left) {
    if (p[0] < 0xC2 || p[0] > 0xF4 || left < 2 || !continues(p[1])) return 0;
    if (p[0] < 0xE0) return 2;
    if (left < 3 || !continues(p[2])) return 0;
    if (p[0] < 0xF0) return (p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ? 0 : 3;
    if (left < 4 || !continues(p[3])) return 0;
    return (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F) ? 0 : 4;
}

static int hex(const u8 *p, i64 left) {
    int value = 0;
    if (left < 4) return -1;
    for (int i = 0; i < 4; i++) {
        u8 byte = p[i], low = byte | 0x20;
        if (byte >= '0' && byte <= '9') value = value * 16 + byte - '0';
        else if (low >= 'a' && low <= 'f') value = value * 16 + low - 'a' + 10;
        else return -1;
    }
    return value;
}

static void put_wide(Cursor *c, int point) {
    if (point < 0x800) {
        *c->out++ = 0xC0 | point >> 6;
    } else {
        if (point < 0x10000) {
            *c->out++ = 0xE0 | point >> 12;
        } else {
            *c->out++ = 0xF0 | point >> 18;
            *c->out++ = 0x80 | (point >> 12 & 0x3F);
        }
        *c->out++ = 0x80 | (point >> 6 & 0x3F);
    }
    *c->out++ = 0x80 | (point & 0x3F);
}

// What stands after `\u`. A quotation mark or NUL in this form wants a closer look.
static int unescape_point(Cursor *c) {
    int point = hex(c->in, c->end - c->in);
    if (point <= 0 || point == '"') return 0;
    c->in += 4;
    if (point >= 0xD800 && point < 0xE000) {
        if (point >= 0xDC00 || c->end - c->in < 6 || c->in[0] != '\\' || c->in[1] != 'u') return 0;
        int low = hex(c->in + 2, 4);
        if (low < 0xDC00 || low > 0xDFFF) return 0;
        c->in += 6;
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    if (point >= 0x80) {
        put_wide(c, point);
        return 1;
    }
    if (point >= ' ' && point != '\\') {
        *c->out++ = (u8)point;
        return 1;
    }
    *c->out++ = '\\';
    if (point == '\\' || (point >= 8 && point <= 13 && point != 11)) {
        *c->out++ = point == '\\' ? '\\' : "btn.fr"[point - 8];
    } else {
        memcpy(c->out, "u00", 3);
        c->out[3] = '0' + (point >> 4);
        c->out[4] = "0123456789abcdef"[point & 15];
        c->out += 5;
    }
    return 1;
}

static int unescape(Cursor *c) {
    if (c->end - c->in < 2) return 0;
    u8 byte = c->in[1];
    c->in += 2;
    if (byte == 'u') return unescape_point(c);
    if (byte == '/') {
        *c->out++ = '/';
        return 1;
    }
    if (!byte || !strchr("\"\\bfnrt", byte)) return 0;
    *c->out++ = '\\';
    *c->out++ = byte;
    return 1;
}

typedef u8 Bytes __attribute__((vector_size(PAD)));

// Copy bytes that stand for themselves, many at a time.
static void copy_plain(Cursor *c) {
    while (c->end - c->in >= PAD) {
        Bytes some;
        u64 found[PAD / 8], any = 0;
        memcpy(&some, c->in, PAD);
        Bytes special = (Bytes)((some == '"') | (some == '\\') | (some < ' ') | (some > 0x7F));
        memcpy(found, &special, PAD);
        for (int i = 0; i < PAD / 8; i++) any |= found[i];
        memcpy(c->out, &some, PAD);
        if (any) {
            int clean = 0;
            while (!found[clean / 8]) clean += 8;
            clean += __builtin_ctzll(found[clean / 8]) / 8;
            c->in += clean;
            c->out += clean;
            return;
        }
        c->in += PAD;
        c->out += PAD;
    }
    while (c->in < c->end && *c->in >= ' ' && *c->in < 0x80 && *c->in != '"' && *c->in != '\\') *c->out++ = *c->in++;
}

// A text up to its closing quotation mark, as it is stored. Returns its characters; -1 where it is none.
static i64 copy_text(Cursor *c) {
    const u8 *start = c->out;
    i64 hidden = 0;  // bytes that are no character of their own
    while (1) {
        copy_plain(c);
        if (c->in >= c->end) return -1;
        u8 byte = *c->in;
        if (byte == '"') break;
        if (byte == '\\') {
            u8 *from = c->out;
            if (!unescape(c)) return -1;
            hidden += c->out - from - 1;
        } else {
            int length = wide(c->in, c->end - c->in);
            if (!length) return -1;
            for (int i = 0; i < length; i++) *c->out++ = *c->in++;
            hidden += length - 1;
        }
    }
    return c->out - start - hidden;
}

// Whether a text, as it is stored, holds more than white space.
static int says_something(const u8 *p, const u8 *end) {
    while (p < end) {
        if (*p == ' ') p += 1;
        else if (*p == '\\' && p[1] == 'u' && (p[4] == '0' ? p[5] == 'b' : p[5] >= 'c')) p += 6;  // 0b, and 1c to 1f
        else if (*p == '\\' && strchr("ntrf", p[1])) p += 2;
        else if (*p < 0x80) return 1;
        else if (p[0] == 0xC2 && (p[1] == 0x85 || p[1] == 0xA0)) p += 2;
        else if (!memcmp(p, "\xE1\x9A\x80", 3) || !memcmp(p, "\xE2\x81\x9F", 3) || !memcmp(p, "\xE3\x80\x80", 3)) p += 3;
        else if (p[0] == 0xE2 && p[1] == 0x80 && (p[2] <= 0x8A || p[2] == 0xA8 || p[2] == 0xA9 || p[2] == 0xAF)) p += 3;
        else return 1;
    }
    return 0;
}

// ---- BLAKE2b, https://www.rfc-editor.org/rfc/rfc7693 -----------------------------------------------------------------------

static const u64 INITIAL[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};
static const u8 ORDER[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline u64 turned(u64 x, int by) { return x >> by | x << (64 - by); }

#define MIX(a, b, c, d, x, y)                    \
    a += b + (x); d = turned(d ^ a, 32);         \
    c += d;       b = turned(b ^ c, 24);         \
    a += b + (y); d = turned(d ^ a, 16);         \
    c += d;       b = turned(b ^ c, 63);

#define ROUND(r)                                                                  \
    MIX(v[0], v[4], v[8], v[12], m[ORDER[r][0]], m[ORDER[r][1]])                  \
    MIX(v[1], v[5], v[9], v[13], m[ORDER[r][2]], m[ORDER[r][3]])                  \
    MIX(v[2], v[6], v[10], v[14], m[ORDER[r][4]], m[ORDER[r][5]])                 \
    MIX(v[3], v[7], v[11], v[15], m[ORDER[r][6]], m[ORDER[r][7]])                 \
    MIX(v[0], v[5], v[10], v[15], m[ORDER[r][8]], m[ORDER[r][9]])                 \
    MIX(v[1], v[6], v[11], v[12], m[ORDER[r][10]], m[ORDER[r][11]])               \
    MIX(v[2], v[7], v[8], v[13], m[ORDER[r][12]], m[ORDER[r][13]])                \
    MIX(v[3], v[4], v[9], v[14], m[ORDER[r][14]], m[ORDER[r][15]])

static void compress(u64 h[8], const u8 *block, u64 bytes, int last) {
    u64 v[16], m[16];
    memcpy(m, block, 128);
    memcpy(v, h, 64);
    memcpy(v + 8, INITIAL, 64);
    v[12] ^= bytes;
    if (last) v[14] = ~v[14];
    ROUND(0) ROUND(1) ROUND(2) ROUND(3) ROUND(4) ROUND(5) ROUND(6) ROUND(7) ROUND(8) ROUND(9) ROUND(0) ROUND(1)
    for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
}

// All but the last block of `size` bytes, whose first `done` bytes were taken already. Returns how many are taken now.
static i64 absorb(u64 h[8], const u8 *data, i64 done, i64 size) {
    for (; size - done > 128; done += 128) compress(h, data + done, done + 128, 0);
    return done;
}

static void digest(const u64 h[8], const u8 *data, i64 done, i64 size, u8 out[HASH]) {
    u64 end[8];
    u8 block[128] = {0};
    memcpy(end, h, sizeof(end));
    memcpy(block, data + done, size - done);
    compress(end, block, size, 1);
    memcpy(out, end, HASH);
}

// As row_hashes.py writes it: what is asked, what has one answer, the whole row, the line.
static void record(const u8 *row, i64 prompt, i64 size, int asks, u64 line, u8 *out) {
    u64 h[8];
    memcpy(h, INITIAL, sizeof(h));
    h[0] ^= 0x01010000 ^ HASH;
    memset(out, 0, 2 * HASH);
    i64 done = absorb(h, row, 0, prompt);
    if (asks) {
        digest(h, row, done, prompt, out);
        memcpy(out + HASH, out, HASH);
    }
    done = absorb(h, row, done, size);
    digest(h, row, done, size, out + 2 * HASH);
    for (int i = 0; i < RECORD - 3 * HASH; i++) out[3 * HASH + i] = (u8)(line >> (40 - 8 * i));
}

// ---- A quick look for secrets and personal data: personal_data.py says what they are --------------------------------------

// A run of bytes of one kind around `at`, of the row that ends at `end` (with a line break, which is of no kind).
typedef struct { const u8 *start, *end; } Run;

static inline Run run_around(const u8 *kinds, u8 kind, const u8 *row, const u8 *at) {
    Run run = {at, at + 1};
    while (run.start > row && kinds[run.start[-1]] & kind) run.start--;
    while (kinds[*run.end] & kind) run.end++;
    return run;
}

static int of_kind(const u8 *kinds, u8 kind, Run run) {
    int found = 0;
    for (const u8 *p = run.start; p < run.end; p++) found += (kinds[*p] & kind) != 0;
    return found;
}

static int may_hold_key(const u8 *kinds, i64 least, const u8 *row, const u8 *end) {
    for (const u8 *p = row + least - 1; p < end; p += least) {
        if (!(kinds[*p] & WORD)) continue;
        Run run = run_around(kinds, WORD, row, p);
        if (run.end - run.start >= least && of_kind(kinds, MARKED, run)) return 1;
        p = run.end;
    }
    for (const u8 *p = row + 4; p < end; p += 5) {
        const u8 *start = p;
        if (*p != '-') continue;
        while (start > row && start[-1] == '-') start--;
        while (p[1] == '-') p++;
        if (p - start >= 4 && end - p > 5 && !memcmp(p + 1, "BEGIN", 5)) return 1;
    }
    return 0;
}

static int may_hold_number(const u8 *kinds, i64 least, const u8 *row, const u8 *end) {
    for (const u8 *p = row + least - 1; p < end; p += least) {
        if (!(kinds[*p] & NUMBER)) continue;
        Run run = run_around(kinds, NUMBER, row, p);
        if (run.end - run.start >= least && of_kind(kinds, DIGIT, run) >= least) return 1;
        p = run.end;
    }
    return 0;
}

static int may_hold_address(const u8 *kinds, const u8 *row, const u8 *end) {
    for (const u8 *p = row; (p = memchr(p, '@', end - p)) != NULL; p++) {
        const u8 *domain = p + 1;
        if (p == row || !(kinds[p[-1]] & LOCAL)) continue;
        while (kinds[*domain] & DOMAIN) domain++;
        if (domain > p + 1 && domain[0] == '.' && kinds[domain[1]] & DOMAIN) return 1;
    }
    return 0;
}

// ---- Rows ----------------------------------------------------------------------------------------------------------------

typedef struct {
    u8 *prompt_end, *answer, *answer_end;
    i64 characters, answer_characters;
    u64 shape;  // 1, then two bits for each role in order
    int asks;
} Row;

static int role(Cursor *c) {
    static const char *const names[] = {"system\"", "user\"", "assistant\"", "tool\""};
    for (int i = 0; i < 4; i++) {
        i64 length = strlen(names[i]);
        if (c->end - c->in >= length && !memcmp(c->in, names[i], length)) return token(c, names[i], length) ? i : -1;
    }
    return -1;
}

static int message(Cursor *c, Row *row) {
    row->prompt_end = c->out;
    if (!TOKEN(c, "{") || !TOKEN(c, "\"role\"") || !TOKEN(c, ":")) return 0;
    skip(c);
    if (c->in >= c->end || *c->in != '"') return 0;
    *c->out++ = *c->in++;
    int who = role(c);
    if (who < 0 || !TOKEN(c, ",") || !TOKEN(c, "\"content\"") || !TOKEN(c, ":")) return 0;
    skip(c);
    if (c->in >= c->end || *c->in != '"') return 0;
    *c->out++ = *c->in++;
    row->shape = row->shape << 2 | who;
    row->asks |= who == 1;
    row->answer = c->out;
    row->answer_characters = copy_text(c);
    row->answer_end = c->out;
    row->characters += row->answer_characters;
    return row->answer_characters > 0 && TOKEN(c, "\"") && TOKEN(c, "}");
}

static int read_row(Cursor *c, Row *row) {
    if (!TOKEN(c, "{") || !TOKEN(c, "\"messages\"") || !TOKEN(c, ":") || !TOKEN(c, "[")) return 0;
    for (int messages = 0;; messages++) {
        if (messages == MOST_MESSAGES || !message(c, row) || !says_something(row->answer, row->answer_end)) return 0;
        if (!TOKEN(c, ",")) break;
    }
    if ((row->shape & 3) != 2 || !TOKEN(c, "]") || !TOKEN(c, "}") || c->in != c->end) return 0;
    *c->out++ = '\n';
    return 1;
}

static i64 place_of(const Scan *s, u64 shape) {
    for (i64 i = 0; i < s->known_count; i++)
        if (s->known[i] == shape) return i;
    return -1;
}

static void keep(Scan *s, const Row *row, const u8 *start, const u8 *end, i64 shape) {
    i64 n = s->count;
    const u8 *kinds = s->kinds;
    record(start, row->prompt_end - start, end - start, row->asks, s->line, s->hashes + n * RECORD);
    s->lines[n] = s->line;
    s->sizes[n] = end - start;
    s->characters[n] = row->characters;
    s->shapes[n] = (u8)shape;
    int suspect = may_hold_key(kinds, s->least_word, start, end) || may_hold_number(kinds, s->least_digits, start, end)
                  || may_hold_address(kinds, start, end);
    int is_long = row->answer_characters >= s->long_answer, open = !(kinds[row->answer_end[-1]] & END);
    s->flags[n] = (suspect ? SUSPECT : 0) | (is_long ? LONG : 0) | (is_long && open ? OPEN : 0);
}

// Read lines from `at` on, until the first one that is no plain row.
void scan(Scan *s) {
    s->strange = 0;
    while (s->at < s->size && s->count < s->room) {
        const u8 *line = s->data + s->at, *found = memchr(line, '\n', s->size - s->at);
        const u8 *end = found ? found : s->data + s->size;
        u8 *start = s->rows + s->written;
        Cursor c = {line, end, start};
        Row row = {.shape = 1};
        if (end - line >= s->longest_line || !read_row(&c, &row)) return;
        i64 shape = place_of(s, row.shape);
        if (shape < 0) {
            s->strange = row.shape;
            return;
        }
        keep(s, &row, start, c.out, shape);
        s->written += c.out - start;
        s->at = end - s->data + (found ? 1 : 0);
        s->line++;
        s->count++;
    }
}
