// Package journalv1 is the content of an agent's journal on the disk, generated
// from journal.proto. Later versions of the agent must be able to read it.
package journalv1
