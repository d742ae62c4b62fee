package encode

import "testing"

// TestHashes_HaveKnownValues checks that the hashes, and so the partitions of rows, do not change
// with an upgrade.
func TestHashes_HaveKnownValues(t *testing.T) {
	if got := fnv32a([]byte("1 2 3 4")) % 10; got != 5 {
		t.Errorf(`fnv32a("1 2 3 4") mod 10 = %d`, got)
	}
	for text, want := range map[string]string{"hello": "26c7827d889f6da3", "": "ef46db3751d8e999"} {
		if got := string(hexHash([]byte(text))); got != want {
			t.Errorf("hexHash(%q) = %s, want %s", text, got, want)
		}
	}
}
