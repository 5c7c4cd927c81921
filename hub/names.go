package hub

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	labelPattern  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	domainPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`)
)

// isLabel tells whether s is a DNS label, as names of members and tokens are.
func isLabel(s string) bool { return labelPattern.MatchString(s) }

func validTrustDomain(s string) error {
	// A member's DNS name (63 characters, ".cluster." and the domain) must stay
	// within the 253 of DNS.
	if len(s) > 180 || !domainPattern.MatchString(s) {
		return fmt.Errorf("--trust-domain %q: expected a DNS name in lower case, such as sealane.local, of at most 180 characters", s)
	}
	return nil
}

// globMatch tells whether s matches a pattern in which "*" stands for any
// characters.
func globMatch(pattern, s string) bool {
	first, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		mid, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, mid)
		}
		i := strings.Index(s, mid)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(mid):], after
	}
}
