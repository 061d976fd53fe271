from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from peers import cases
from peers.cases import Case, Size

RUST_GRID = Path(__file__).resolve().parents[2] / "fused" / "cases.rs"


class Shapes(unittest.TestCase):
    def test_parse(self):
        parsed = cases.parse_shapes("8192x32000:bf16,64x10")
        expected = [Size(8192, 32_000, "bf16"), *(Size(64, 10, dtype) for dtype in ("bf16", "f32", "f16"))]
        self.assertEqual(parsed, expected)

    def test_parse_refuses(self):
        for text in ("", "8x", "x8", "0x8", "8x0", "8x8:f64", "8x8:", "-1x8", "8*8", "8x8,"):
            with self.subTest(text), self.assertRaises(ValueError):
                cases.parse_shapes(text)

    def test_names(self):
        self.assertEqual(cases.parse_names("all", ("a", "b"), "name"), ["a", "b"])
        self.assertEqual(cases.parse_names("b", ("a", "b"), "name"), ["b"])
        with self.assertRaisesRegex(ValueError, "no name 'c': all, or some of a,b"):
            cases.parse_names("a,c", ("a", "b"), "name")

    def test_smoothings(self):
        self.assertEqual(cases.parse_smoothings("0.1,0"), [0.1, 0.0])
        for text in ("", "1.5", "-0.1", "x", "nan"):
            with self.subTest(text), self.assertRaises(ValueError):
                cases.parse_smoothings(text)

    def test_shapes_of_a_file_each_once(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "fused.csv")
            file.write_text("implementation,rows,classes,dtype\na,7,10,f32\nb,7,10,f32\na,5,3,f16\n")
            self.assertEqual(cases.read_shapes(str(file)), [Size(7, 10, "f32"), Size(5, 3, "f16")])

    def test_short_grid_is_that_of_the_rust_benchmark(self):
        if not RUST_GRID.exists():
            self.skipTest("no Rust benchmark beside this package")
        text = RUST_GRID.read_text()
        grid = text[text.index("pub const GRID") : text.index("pub const QUICK_GRID")]
        lines = [line for line in grid.splitlines() if "Size::new(" in line]
        rust = set()
        for line in lines:
            rows, classes, dtype = line[line.index("(") + 1 : line.index(")")].split(", ")
            rust.add(Size(int(rows), int(classes), dtype.replace("Dtype::", "").lower()))
        self.assertEqual(set(cases.SHORT_GRID), rust)
        self.assertEqual(len(cases.SHORT_GRID), len(rust))

    def test_full_grid_fits_and_has_every_dtype(self):
        grid = cases.full_grid()
        self.assertEqual(len(grid), len(set(grid)))
        for dtype, size in cases.ELEMENT_BYTES.items():
            of_dtype = [each for each in grid if each.dtype == dtype]
            self.assertGreater(len(of_dtype), 60)
            self.assertTrue(
                all(each.rows * each.classes * size <= cases.FULL_GRID_BYTES for each in of_dtype)
            )


class Bytes(unittest.TestCase):
    def test_as_the_rust_benchmark_counts(self):
        of = {
            "fused": 2 * 70 * 10 * 2 + 70 * 8,
            "forward": 70 * 10 * 2 + 70 * 12,
            "backward": 2 * 70 * 10 * 2 + 70 * 12,
        }
        for computes, expected in of.items():
            with self.subTest(computes):
                self.assertEqual(Case(70, 10, "f16", computes).bytes, expected)

    def test_what_is_touched(self):
        of = {"fused": 2, "forward": 1, "backward": 2}
        for computes, matrices in of.items():
            self.assertEqual(Case(70, 10, "f16", computes).touched_bytes, matrices * 70 * 10 * 2)
        self.assertEqual(Case(70, 10, "f16", place="in_place").touched_bytes, 70 * 10 * 2)

    def test_copies_move_as_much(self):
        self.assertEqual(Case(70, 10, "f16").copied_elements, 700)
        self.assertEqual(Case(70, 10, "f16", "forward").copied_elements, 350)
        self.assertEqual(Case(1, 1, "f16", "forward").copied_elements, 1)
        # 49 rows are read, 70 written.
        self.assertEqual(Case(70, 10, "f16", variant="ignored30").copied_elements, (49 + 70) * 5)

    def test_counted_rows(self):
        for variant in cases.VARIANTS:
            for rows in (1, 2, 9, 10, 11, 73, 1000):
                case = Case(rows, 7, "f32", variant=variant)
                counted = sum(not case.is_ignored(row) for row in range(rows))
                with self.subTest(f"{variant} {rows}"):
                    self.assertEqual(case.counted_rows, counted)
                    self.assertGreater(counted, 0)
        self.assertEqual(Case(1000, 7, "f32", variant="ignored90").counted_rows, 100)

    def test_padding_and_offset(self):
        for classes in (1, 63, 64, 65, 32_000):
            case = Case(3, classes, "f32", variant="padded")
            self.assertGreater(case.row_stride, classes)
            self.assertEqual(case.row_stride % cases.PADDED_TO, 0)
        self.assertEqual(Case(3, 65, "f32").row_stride, 65)
        self.assertEqual(
            [Case(3, 65, "f32", variant=each).offset for each in ("plain", "misaligned")], [0, 1]
        )


class Order(unittest.TestCase):
    def test_what_matters_most_comes_first(self):
        sizes = [Size(2, 3, "f32"), Size(4, 5, "f32")]
        chosen = cases.speed_cases(sizes, ["fused", "in_place"], ["plain", "padded"], [0.1, 0.0])
        self.assertEqual(len(chosen), 16)
        firsts = [(case.rows, case.place, case.label_smoothing) for case in chosen[:6]]
        expected = [(rows, "apart", smoothing) for rows in (2, 4) for smoothing in (0.1, 0.0)]
        self.assertEqual(firsts, [*expected, (2, "in_place", 0.1), (2, "in_place", 0.0)])
        self.assertTrue(all(case.variant == "plain" for case in chosen[:8]))


if __name__ == "__main__":
    unittest.main()
