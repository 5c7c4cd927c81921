package demo

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The built-in story needs these three. Of two members that are linked the one
// whose name sorts last dials, so the address of denver is dialled by tokyo and
// by nobody else: all other names below sort before denver.
const (
	berlin = "berlin"
	tokyo  = "tokyo"
	denver = "denver"
)

// city is a member with a place in the world.
type city struct{ name, region string }

var cities = []city{
	{berlin, "europe"}, {tokyo, "asia"}, {denver, "america"},
	{"cairo", "africa"}, {"brisbane", "oceania"}, {"bogota", "america"}, {"athens", "europe"}, {"bangkok", "asia"},
	{"accra", "africa"}, {"austin", "america"}, {"auckland", "oceania"}, {"brussels", "europe"}, {"delhi", "asia"},
	{"dakar", "africa"}, {"boston", "america"}, {"cologne", "europe"}, {"beijing", "asia"},
	{"algiers", "africa"}, {"chicago", "america"}, {"copenhagen", "europe"},
}

var memberName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// chooseMembers reads the flag --members: a number of cities from 3 to 20, or
// names separated by commas.
func chooseMembers(flag string) ([]string, error) {
	if n, err := strconv.Atoi(flag); err == nil {
		if n < 3 || n > len(cities) {
			return nil, fmt.Errorf("--members %d: want 3 to %d", n, len(cities))
		}
		names := make([]string, n)
		for i, c := range cities[:n] {
			names[i] = c.name
		}
		return names, nil
	}
	names := strings.Split(flag, ",")
	for i, n := range names {
		if !memberName.MatchString(n) {
			return nil, fmt.Errorf("--members %q: want a number from 3 to %d, or names of a-z, 0-9 and '-' separated by commas", flag, len(cities))
		}
		if slices.Contains(names[:i], n) {
			return nil, fmt.Errorf("--members %q: %s is there twice", flag, n)
		}
	}
	if len(names) > len(cities) {
		return nil, fmt.Errorf("--members: %d names, want at most %d", len(names), len(cities))
	}
	return names, nil
}

// labelsOf are the labels that a member joins with.
func labelsOf(member string) map[string]string {
	l := map[string]string{"city": member}
	for _, c := range cities {
		if c.name == member {
			l["region"] = c.region
			l["topology.kubernetes.io/region"] = c.region
		}
	}
	return l
}
