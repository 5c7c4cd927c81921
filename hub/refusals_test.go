package hub

import (
	"os"
	"strings"
	"testing"
)

// Whoever sees a reason in a metric finds what it means.
func TestRefusalReasonsAreExplained(t *testing.T) {
	doc, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range refusalReasons {
		if !strings.Contains(string(doc), "| `"+reason+"` |") {
			t.Errorf("docs/security.md does not explain %q", reason)
		}
	}
}
